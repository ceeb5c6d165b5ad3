"""The example that prunes and removes heads and inner units."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from from_examples import EXAMPLES
from from_examples import importable

import keras_bimp


@pytest.fixture(scope="module")
def script():
    with importable(EXAMPLES):
        import shrink_transformer

        yield shrink_transformer


def flags(script, folder, *more):
    script.FLAGS(
        [
            "shrink_transformer",
            "--blocks=1",
            "--width=16",
            "--heads=4",
            "--length=8",
            "--subset=600",
            "--epochs=2",
            "--dense_epochs=1",
            "--rounds=2",
            f"--output_dir={folder}",
            *more,
        ]
    )


def test_the_text_is_real_and_each_byte_is_followed_by_the_next(script):
    (x, y), (other, _) = script.load_text(8, 600)
    np.testing.assert_array_equal(x[:, 1:], y[:, :-1])
    assert (len(x), len(other)) == (67, 7)  # 74 rows of 8 bytes and a byte.
    assert b"assert" in bytes(x.ravel().astype("uint8"))


def test_the_shape_that_is_promised(script):
    """With the 4 blocks of the docs, it is at least 1.6 times smaller."""
    keras.utils.set_random_seed(0)
    wrapped = keras_bimp.wrap(
        script.build_transformer(length=64, blocks=4, width=256, heads=8)
    )
    pruning = keras_bimp.prune(wrapped, 0.5, granularity="unit")
    assert sorted(pruning.units.values()) == [(4, 8)] * 4 + [(512, 1024)] * 4
    pruned = keras_bimp.strip(wrapped)
    small = keras_bimp.shrink(pruned)
    assert pruned.count_params() >= 1.6 * small.count_params()
    before, after = (
        keras_bimp.metrics.count_macs(model).dense for model in (pruned, small)
    )
    assert before >= 1.6 * after
    x = np.random.default_rng(0).integers(0, 256, (2, 64))
    y, other = (
        keras.ops.convert_to_numpy(model(x)) for model in (pruned, small)
    )
    np.testing.assert_allclose(other, y, rtol=0, atol=1e-5 * np.abs(y).max())


@pytest.mark.slow
def test_it_prints_accuracies_and_a_table(script, tmp_path, capsys):
    flags(script, tmp_path)
    script.main([])
    text = capsys.readouterr().out
    (difference,) = re.findall(r"Outputs differ by at most (\S+)", text)
    assert float(difference) < 1e-5
    for title in ("just before pruning", "just after it", "retraining"):
        assert re.search(rf"accuracy .*{title} +\d+\.\d\d%", text)
    for row in ("parameters", "multiply-adds", "SavedModel", "LiteRT"):
        assert re.search(rf"{row}.* \d+\.\d\d", text)
    x = np.arange(8, dtype="int32")[None]
    loaded = [
        tf.saved_model.load(str(tmp_path / name / "1"))
        for name in ("zeros", "shrunk")
    ]
    zeros, shrunk = (model.serve(x).numpy() for model in loaded)
    assert np.any(zeros)
    np.testing.assert_allclose(shrunk, zeros, rtol=0, atol=1e-5)
