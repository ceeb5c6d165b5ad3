"""The comparison of schedules, on a few images and a few epochs."""

import csv

import numpy as np
import pytest
from from_examples import EXAMPLES
from from_examples import importable
from helpers import lines_with

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compare():
    with importable(EXAMPLES):
        import compare_schedules

        yield compare_schedules


def few_images(data_dir, train_split):
    """Generates four classes: which quarter of the image is bright."""
    assert train_split == "train[:200]"
    rng = np.random.default_rng(0)
    parts = []
    for size in (200, 80):
        labels = rng.integers(0, 4, size)
        images = rng.standard_normal((size, 28, 28, 1)).astype("float32")
        for image, label in zip(images, labels, strict=True):
            row, column = 14 * (label // 2), 14 * (label % 2)
            image[row : row + 14, column : column + 14] += 2
        parts.append((images, labels))
    return parts


def test_it_runs_resumes_and_reports(compare, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(compare, "load_fashion_mnist", few_images)

    def run(retraining, target_sparsity):
        compare.FLAGS(
            [
                "compare_schedules",
                f"--retraining={retraining}",
                f"--target_sparsity={target_sparsity}",
                "--epochs=1",
                "--pretrain_epochs=2",
                "--train_images=200",
                f"--output_dir={tmp_path}",
            ]
        )
        compare.main([])
        return (tmp_path / "results.csv").read_text().splitlines()

    first = run("allr,wr", "0.9")
    assert len(first) == 1 + 2
    capsys.readouterr()
    second = run("accallr,allr", "0.5,0.9")
    # Finished runs are not repeated.
    assert second[: len(first)] == first
    assert len(second) == 1 + 2 + 3
    printed = capsys.readouterr().out
    assert "4 of 4" not in printed
    assert lines_with(printed, "1 of 4", "ACCALLR", "50%")

    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert float(row["sparsity"]) == pytest.approx(
            float(row["target_sparsity"]), abs=1e-4
        )
        assert float(row["accuracy"]) >= 0.15  # It learns something.
    table = (tmp_path / "results.md").read_text()
    assert "| ACCALLR |" in table
    assert "| WR |" not in table  # Not requested in the second run.
    picture = (tmp_path / "schedules.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def row(retraining, seed, accuracy, epochs=1, dense=0.9):
    return {
        "retraining": retraining,
        "seed": str(seed),
        "accuracy": str(accuracy),
        "epochs": str(epochs),
        "target_sparsity": "0.9",
        "dense_accuracy": str(dense + seed / 100),
    }


def test_tables_tell_means_spreads_and_who_is_near_the_best(compare):
    rows = [
        row("ft", 0, 0.80), row("ft", 1, 0.82),
        row("llr", 0, 0.84), row("llr", 1, 0.86),
        row("allr", 0, 0.85), row("allr", 1, 0.87),
        row("ft", 0, 0.7, epochs=4),
    ]  # fmt: skip
    facts, table, counts = compare.tables(rows)
    assert "90.50 +- 0.71" in facts
    lines = table.splitlines()
    assert lines_with(lines[0], "90%", "1", "4")
    assert lines[2] == "| FT | 81.00 +- 1.41 | **70.00** |"
    # The best is 86.00, its standard error 1.41 / sqrt(2) = 1.00.
    assert lines[3] == "| LLR | **85.00** +- 1.41 | - |"
    assert lines[4] == "| ALLR | **86.00** +- 1.41 | - |"
    assert lines_with(counts, "2", "FT 1", "LLR 1", "ALLR 1")
