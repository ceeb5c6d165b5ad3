"""Runs the digits example as a new user does, but shorter."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

pytestmark = pytest.mark.slow

EXAMPLE = pathlib.Path(__file__).parent.parent / "examples" / "digits.py"


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(EXAMPLE), *map(str, arguments)],
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    done = run(
        "--epochs=4",
        "--dense_epochs=2",
        "--cycles=2",
        "--seed=1",
        f"--output_dir={folder}",
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def zeros(kernels):
    return sum(int((kernel == 0).sum()) for kernel in kernels)


def test_it_prints_the_plan_a_line_per_epoch_and_a_comparison(output):
    _, done = output
    lines = done.stdout.splitlines()
    assert sum("cycle 2" in line for line in lines) == 2
    assert sum(line.startswith("epoch") for line in lines) == 4
    assert any("multiply-adds" in line for line in lines)
    assert "Traceback" not in done.stderr


def test_every_artifact_has_exactly_the_zeros_asked_for(output):
    folder, _ = output
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["target_sparsity"] == 0.95
    assert 0 <= summary["accuracy"] <= 1
    expected = round(0.95 * summary["prunable_weights"])
    assert summary["zeros"] == expected
    model = keras.models.load_model(folder / "model.keras")
    kernels = [v.numpy() for v in model.weights if v.name == "kernel"]
    assert sum(kernel.size for kernel in kernels) == summary["prunable_weights"]
    assert zeros(kernels) == expected
    loaded = tf.saved_model.load(str(folder / "saved_model" / "1"))
    served = loaded.signatures["serving_default"].variables
    kernels = [v.numpy() for v in served if len(v.shape) > 1]
    assert sum(np.size(k) for k in kernels) == summary["prunable_weights"]
    assert zeros(kernels) == expected
    assert (folder / "history.png").stat().st_size > 10_000
    assert "95.00%" in (folder / "report.html").read_text()
    report = json.loads((folder / "report.json").read_text())
    assert sum(k["size"] - k["left"] for k in report["kernels"]) == expected
    assert report["dense_macs"] > 4 * report["macs"]


def test_a_second_run_takes_the_next_version_and_errors_are_short(output):
    folder, _ = output
    again = run("--epochs=2", "--dense_epochs=1", f"--output_dir={folder}")
    assert again.returncode == 0, again.stderr
    assert sorted(p.name for p in (folder / "saved_model").iterdir()) == [
        "1",
        "2",
    ]
    bad = run("--epochs=2", "--dense_epochs=2", f"--output_dir={folder}")
    assert bad.returncode != 0
    assert "`dense_epochs`" in bad.stderr
