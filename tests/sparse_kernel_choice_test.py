"""`sparse_kernels="auto"`, and what is refused."""

import errno
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from jobs import first_and_slow
from keras import layers
from sparse_serving_models import check
from sparse_serving_models import dense_layers
from sparse_serving_models import nested
from sparse_serving_models import pruned

import keras_bimp
from keras_bimp._src.exporting.sparse_kernels import measured_choice as choosing


def times(monkeypatch, ratio):
    """Makes sparse kernels seem faster by a ratio."""
    monkeypatch.setattr(
        choosing,
        "in_turns",
        lambda functions, *_: np.array([[ratio(functions)] * 3, [1.0] * 3]),
    )


def test_auto_takes_what_is_faster_at_every_size(tmp_path, monkeypatch):
    def ratio(functions):
        (x,) = functions[0].args
        if x.shape[-1] == 12 and len(x) > 1:  # The third.
            return 0.5
        return 3.0 if x.shape[-1] == 16 and len(x) > 1 else 1.2

    times(monkeypatch, ratio)
    model = pruned(dense_layers())
    model.layers[0].kernel.assign(np.ones((6, 16)))
    _, exported = check(
        model, tmp_path / "1", 1, sparse_kernels="auto", batch_sizes=[1, 9]
    )
    first, second, third = exported.sparse_kernels.choices
    assert (first.sparse, second.sparse, third.sparse) == (False, True, False)
    assert third.speedups == {1: 1.2, 9: 0.5}
    assert first.speedups == {}
    assert second.speedups == {1: 1.2, 9: 3.0}
    assert exported.sparse_kernels.speedups == {1: 1.2, 9: 1.2}
    assert (second.shape, second.kernel) == (
        (16, 12),
        model.layers[1].kernel.path,
    )
    known = json.loads(
        (exported / "assets.extra" / "sparse_kernels.json").read_text()
    )
    assert known["choices"][1]["speedups"] == {"1": 1.2, "9": 3.0}


@pytest.mark.parametrize("slower", ["kernels", "model"])
def test_auto_stays_dense_where_sparse_is_slower(tmp_path, monkeypatch, slower):
    model = pruned(dense_layers())

    times(monkeypatch, lambda _: 0.7 if slower == "kernels" else 2.0)
    monkeypatch.setattr(
        choosing, "_speedups_of_model", lambda *_: {1: 2.0, 9: 0.98}
    )
    _, exported = check(
        model, tmp_path / "1", 0, sparse_kernels="auto", batch_sizes=(1, 9)
    )
    assert "No kernel is sparse" in str(exported.sparse_kernels)
    reasons = {c.reason for c in exported.sparse_kernels.choices}
    assert reasons == {"not faster at every batch size"}


def test_auto_measures(tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "_ROUNDS", (1, 1))
    monkeypatch.setattr(choosing, "_ROUNDS_OF_MODELS", (1, 1))
    monkeypatch.setattr(choosing, "_LEAST", (0.0, 0.0))
    monkeypatch.setattr(choosing, "_LEAST_OF_MODELS", 0.0)
    model = pruned(nested())
    exported = keras_bimp.export(
        model, tmp_path / "1", sparse_kernels="auto", verbose=0, verify=False
    )
    for choice in exported.sparse_kernels.choices:
        assert [*choice.speedups] == [1, 32]
        assert all(ratio > 0 for ratio in choice.speedups.values())


def test_a_dense_model_stays_dense(tmp_path):
    _, exported = check(
        pruned(dense_layers(), 0.1), tmp_path / "1", 0, sparse_kernels="auto"
    )
    assert "No kernel is sparse" in str(exported.sparse_kernels)
    assert {c.reason for c in exported.sparse_kernels.choices} == {
        "less than half zeros"
    }


@pytest.mark.every_backend
@pytest.mark.parametrize("kernels", first_and_slow([True, "auto"], [True]))
def test_from_every_backend(kernels, tmp_path):
    model = pruned(dense_layers())
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    path = keras_bimp.export(
        model,
        tmp_path / "1",
        sparse_kernels=kernels,
        batch_sizes=(1,),
        verbose=0,
        verify=False,
    )
    choices = path.sparse_kernels.choices
    if kernels == "auto":
        assert all([*c.speedups] == [1] for c in choices)
    else:
        assert all(choice.sparse for choice in choices)
    loaded = tf.saved_model.load(str(path))
    found = loaded.serve(tf.constant(x))
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"sparse_kernels": "all"}, r"`sparse_kernels`.*'all'"),
        ({"batch_sizes": ()}, "`batch_sizes`"),
        ({"batch_sizes": (1, 0)}, "`batch_sizes`.*0"),
        ({"batch_sizes": 8}, "`batch_sizes`.*8"),
        ({"format": "onnx", "sparse_kernels": True}, "`sparse_kernels`"),
    ],
)
def test_bad_arguments(arguments, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        keras_bimp.export(dense_layers(), tmp_path / "1", **arguments)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite(tmp_path):
    model = pruned(dense_layers())
    model.layers[0].kernel.assign(np.full((6, 16), np.nan))
    with pytest.raises(ValueError, match=r"`model`.*kernel"):
        keras_bimp.export(model, tmp_path / "1", sparse_kernels=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["float16", "mixed_bfloat16"])
def test_types_without_a_sparse_product(dtype, tmp_path):
    layer = layers.Dense(4, dtype=dtype)
    model = pruned(keras.Sequential([keras.Input((6,)), layer]))
    with pytest.raises(ValueError, match=r"`sparse_kernels`.*float16.*dense"):
        keras_bimp.export(model, tmp_path / "1", sparse_kernels=True)
    assert not list(tmp_path.iterdir())
    path = keras_bimp.export(
        model, tmp_path / "1", sparse_kernels="auto", verbose=0, verify=False
    )
    (choice,) = path.sparse_kernels.choices
    assert not choice.sparse
    assert "float16" in choice.reason


def test_float64(tmp_path):
    layer = layers.Dense(4, dtype="float64")
    model = pruned(keras.Sequential([keras.Input((6,)), layer]))
    check(model, tmp_path / "1", 1)


def test_a_compiled_signature_is_refused(tmp_path):
    model = pruned(dense_layers())

    @tf.function(jit_compile=True)
    def compiled(x):
        return model(x)

    signatures = {"quick": lambda x: compiled(x) + 1}
    with pytest.raises(ValueError, match=r"`signatures`.*'quick'.*jit_compile"):
        keras_bimp.export(
            model, tmp_path / "1", signatures=signatures, sparse_kernels=True
        )
    assert not list(tmp_path.iterdir())
    keras_bimp.export(
        model,
        tmp_path / "1",
        signatures={"other": tf.function(lambda x: x + 1, jit_compile=True)},
        sparse_kernels=True,
        verbose=0,
        verify=False,
    )


def test_a_full_disk_leaves_nothing(tmp_path):
    import resource

    model = pruned(keras.Sequential([keras.Input((512,)), layers.Dense(512)]))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="`filepath`") as raised:
            keras_bimp.export(model, tmp_path / "1", sparse_kernels=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())
