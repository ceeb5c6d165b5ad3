"""The example that serves a transformer with sparse kernels."""

import pytest
from from_examples import EXAMPLES
from from_examples import importable

from keras_bimp._src.exporting.sparse_kernels import measured_choice as choosing


@pytest.fixture
def script():
    with importable(EXAMPLES):
        import sparse_transformer

        yield sparse_transformer


@pytest.mark.slow
def test_it_prunes_and_exports_both_ways(script, tmp_path, capsys, monkeypatch):
    # No kernel of such a small model would be faster.
    monkeypatch.setattr(choosing, "_LEAST", (0.0, 0.0))
    monkeypatch.setattr(choosing, "_LEAST_OF_MODELS", 0.0)
    script.FLAGS(
        [
            "sparse_transformer",
            "--blocks=1",
            "--width=16",
            "--heads=4",
            "--length=8",
            "--subset=600",
            "--epochs=3",
            "--dense_epochs=1",
            "--cycles=1",
            "--target_sparsity=0.8",
            "--rounds=2",
            f"--output_dir={tmp_path}",
        ]
    )
    script.main(None)
    shown = capsys.readouterr().out
    assert "7 of 7 kernels are sparse" in shown
    (line,) = [s for s in shown.splitlines() if " accuracy " in s]
    dense, sparse = [word for word in line.split() if "%" in word]
    assert dense == sparse
    for name in ("dense", "sparse"):
        assert (tmp_path / name / "1" / "saved_model.pb").exists()
