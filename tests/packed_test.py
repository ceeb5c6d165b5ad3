"""Packed files: small, and bit-identical."""

import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
from helpers import array
from helpers import compile_model
from helpers import dense_model
from helpers import fit
from keras import layers

import keras_bimp
from keras_bimp._src.exporting import packed
from keras_bimp._src.exporting import rounding
from keras_bimp.exporting import load_packed
from keras_bimp.exporting import unpack


def sparse_model(share=0.9, model=None):
    """Builds a model with mostly zeros, and one -0."""
    model = dense_model() if model is None else model
    rng = np.random.default_rng(0)
    for variable in model.weights:
        value = rng.standard_normal(variable.shape)
        kept = rng.random(variable.shape) > share
        variable.assign(np.where(kept, value, 0))
    variable = model.weights[0]
    value = array(variable)
    value.flat[3] = -0.0
    variable.assign(value)
    return model


def bits(model):
    return [bits_of(variable) for variable in model.weights]


def bits_of(variable):
    return array(variable).tobytes()


@pytest.fixture
def exported(tmp_path):
    model = sparse_model()
    return model, keras_bimp.export(
        model, tmp_path / "model.packed", format="packed"
    )


@pytest.mark.every_backend
def test_it_is_the_same_model_to_the_last_bit(tmp_path):
    model = compile_model(dense_model())
    fit(model, 1)
    sparse_model(model=model)
    path = keras_bimp.export(model, tmp_path / "a.packed", format="packed")
    again = load_packed(path)
    assert bits(again) == bits(model)
    assert b"\0\0\0\x80" in bits(again)[0]  # -0
    x = np.ones((2, 6), "float32")
    np.testing.assert_array_equal(
        again.predict(x, verbose=0), model.predict(x, verbose=0)
    )
    assert again.optimizer.momentum == 0.9
    fit(again, 1)
    assert not load_packed(path, compile=False).compiled


def test_a_keras_file_comes_out(exported, tmp_path):
    model, path = exported
    model.save(tmp_path / "before.keras")
    assert unpack(path, tmp_path / "after.keras") == tmp_path / "after.keras"
    members = []
    for name in ("before.keras", "after.keras"):
        with zipfile.ZipFile(tmp_path / name) as archive:
            members.append(
                {n: archive.read(n) for n in ("config.json", "metadata.json")}
            )
    assert members[0]["config.json"] == members[1]["config.json"]
    assert json.loads(members[1]["metadata.json"])["keras_version"]
    assert bits(keras.models.load_model(tmp_path / "after.keras")) == bits(
        model
    )


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "mixed_float16"])
def test_types(dtype, tmp_path):
    model = sparse_model(model=dense_model(dtype=dtype))
    path = keras_bimp.export(model, tmp_path / "a.packed", format="packed")
    again = load_packed(path)
    assert bits(again) == bits(model)
    assert [v.dtype for v in again.weights] == [v.dtype for v in model.weights]


def test_eight_bits(tmp_path):
    model = sparse_model()
    model.quantize("int8", filters=["dense"])
    path = keras_bimp.export(model, tmp_path / "a.packed", format="packed")
    assert bits(load_packed(path)) == bits(model)


@pytest.mark.every_backend
@pytest.mark.slow("jax", "torch")
@pytest.mark.parametrize("bias_first", [False, True])
def test_kernels_rounded_to_eight_bits(bias_first, tmp_path):
    rng = np.random.default_rng(0)
    first = [layers.BatchNormalization()] * bias_first
    model = keras.Sequential(
        [
            keras.Input((6, 5)),
            *first,
            layers.Conv1D(8, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    sparse_model(0.8, model)
    if bias_first:
        model.layers[0].set_weights([*rng.uniform(0.5, 1.5, (4, 5))])
    path = keras_bimp.export(
        model, tmp_path / "a.packed", "packed", quantize="int8_weights"
    )
    assert 0 < path.difference < 0.1
    again = load_packed(path)
    for one, other in zip(model.weights, again.weights, strict=True):
        one, other = array(one), array(other)
        if one.ndim == 1:
            np.testing.assert_array_equal(other, with_bits(one))
            continue
        scale = np.abs(one).max(axis=tuple(range(one.ndim - 1))) / 127
        scale = with_bits(scale.astype("float32"), 8)
        expected = np.round(one / np.where(scale, scale, 1)) * scale
        np.testing.assert_allclose(other, expected, rtol=1e-6)
        assert (np.abs(other - one) <= 0.501 * scale).all()
        assert (other[one == 0] == 0).all()
        assert (one != other).any()
    plain = keras_bimp.export(model, tmp_path / "b.packed", "packed")
    assert path.stat().st_size < plain.stat().st_size
    assert plain.difference is None


def with_bits(vector, bits=11):
    """By the bits of float32, of which 24 are significant."""
    words = vector.view("uint32").astype("int64")
    one = 1 << (24 - bits)
    low = words % one
    is_odd = words // one % 2 == 1
    up = (low > one // 2) | ((low == one // 2) & is_odd)
    words = words - low + one * up
    return words.astype("uint32").view("float32")


def test_vectors_keep_11_bits_and_their_exponents(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(9)])
    vector = np.array(
        [0, -0.0, 1 + 2**-11, 1 + 3 * 2**-11, -1e-30, 65505, 3e38, 1, 1e9],
        "float32",
    )
    model.layers[0].bias.assign(vector)
    path = keras_bimp.export(
        model, tmp_path / "a.packed", "packed", quantize="int8_weights"
    )
    found = array(load_packed(path).layers[0].bias)
    np.testing.assert_array_equal(found, with_bits(vector))
    assert list(found[2:4]) == [1, 1 + 2**-9]
    off = np.abs(found / np.where(vector, vector, 1) - (vector != 0))
    assert 0 < off.max() <= 1 / 2048
    model.layers[0].bias.assign(np.full(9, np.finfo("float32").max))
    path = keras_bimp.export(
        model, tmp_path / "b.packed", "packed", quantize="int8_weights"
    )
    assert bits(load_packed(path))[1] == bits(model)[1]  # Not infinite.


@pytest.mark.every_backend
@pytest.mark.slow("jax", "torch")
def test_statistics_that_are_far_from_zero_are_not_rounded(tmp_path):
    """They are large next to what they leave of the inputs."""

    def norm(mean):
        layer = layers.BatchNormalization(epsilon=0.01)
        layer.build((None, 5))
        layer.moving_mean.assign(np.linspace(0.1, mean, 5))
        layer.moving_variance.assign(np.full(5, 0.99 - mean / 1e5))
        return layer

    x = np.random.default_rng(0).normal(12345.6, 0.1, size=(20, 4, 5))
    first = layers.Normalization(axis=(1, 2))
    first.adapt(x)
    blocks = [first, layers.Flatten(), layers.Dense(5), norm(31.5), norm(32.5)]
    model = keras.Sequential([keras.Input((4, 5)), *blocks])
    path = keras_bimp.export(
        model,
        tmp_path / "a.packed",
        "packed",
        quantize="int8_weights",
        example_data=x,
    )
    again = load_packed(path)
    kept = [
        [bits_of(one) == bits_of(other) for one, other in pairs]
        for pairs in (
            zip(one.variables, other.variables, strict=True)
            for one, other in zip(model.layers, again.layers, strict=True)
        )
    ]
    # Ones and zeros, as scales and offsets are here, need no rounding.
    assert kept == [
        [True] * 3,
        [],
        [False, True],
        [True, True, False, False],
        [True, True, True, True],
    ]


def test_a_file_whose_scales_have_all_bits_is_read(tmp_path, monkeypatch):
    """As they had before they were rounded."""
    monkeypatch.setattr(rounding, "_to_few_bits", lambda vector, *_: vector)
    model = sparse_model()
    path = keras_bimp.export(
        model, tmp_path / "a.packed", "packed", quantize="int8_weights"
    )
    kernel, bias = map(array, model.weights[:2])
    found, same = map(array, load_packed(path).weights[:2])
    scale = np.abs(kernel).max(axis=0) / np.float32(127)
    expected = np.round(kernel / np.where(scale, scale, 1)) * scale
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(same, bias)


def test_what_an_optimizer_remembers_is_not_rounded(tmp_path):
    model = compile_model(dense_model())
    model.optimizer.build(model.trainable_variables)
    for slot in model.optimizer.variables:
        if len(slot.shape) > 1:
            slot.assign(np.random.default_rng(0).normal(size=slot.shape))
    path = keras_bimp.export(
        model, tmp_path / "a.packed", "packed", quantize="int8_weights"
    )
    again = load_packed(path)
    for one, other in zip(
        model.optimizer.variables, again.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(array(one), array(other))


@pytest.mark.parametrize("quantize", ["int8", "float16"])
def test_other_ways_to_quantize_are_those_of_litert(quantize, tmp_path):
    with pytest.raises(ValueError, match=r"`quantize`.*int8_weights"):
        keras_bimp.export(
            dense_model(), tmp_path / "a.packed", "packed", quantize=quantize
        )


@pytest.mark.slow
def test_nothing_is_quantized_twice(tmp_path):
    model = dense_model()
    model.quantize("int8", filters=["dense"])
    with pytest.raises(ValueError, match=r"`quantize`.*as it was before"):
        keras_bimp.export(
            model, tmp_path / "a.packed", "packed", quantize="int8_weights"
        )


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` met")
@pytest.mark.slow
def test_lora_is_merged_and_rounded_again(tmp_path):
    """It is refused if the file would have other codes than memory."""

    def adapted():
        model = keras.Sequential([keras.Input((64,)), layers.Dense(64)])
        rng = np.random.default_rng(0)
        model.layers[0].kernel.assign(rng.normal(size=(64, 64)))
        model.layers[0].enable_lora(2)
        model.layers[0].lora_kernel_b.assign(rng.normal(size=(2, 64)))
        return model

    path = keras_bimp.export(adapted(), tmp_path / "a.packed", "packed")
    assert path.difference < 1e-5
    model = adapted()
    model.quantize("int8")
    with pytest.raises(RuntimeError, match="`save_weights` merges LoRA"):
        keras_bimp.export(model, tmp_path / "b.packed", "packed")
    assert not (tmp_path / "b.packed").exists()
    adapted().save_weights(tmp_path / "a.weights.h5")
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64)])
    model.load_weights(tmp_path / "a.weights.h5")
    model.quantize("int8")
    keras_bimp.export(model, tmp_path / "c.packed", "packed")


def test_tables_come_along(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((1,), dtype="string"),
            layers.StringLookup(vocabulary=["cat", "dög"]),
            layers.Embedding(3, 2),
        ]
    )
    path = keras_bimp.export(model, tmp_path / "a.packed", format="packed")
    again = load_packed(path)
    assert again.layers[0].get_vocabulary() == ["[UNK]", "cat", "dög"]
    assert bits(again) == bits(model)


def test_weights_of_any_kind_come_along(tmp_path):
    """Weights that Keras does not save are kept unchanged."""
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        with h5py.File(tmp_path / "weights", "w") as file:
            file["words"] = ["one", "two"]
        data = (tmp_path / "weights").read_bytes()
        archive.writestr("model.weights.h5", data)
    with pytest.raises(ValueError, match="`quantize` must be None"):
        packed.pack(tmp_path / "a.keras", tmp_path / "a.packed", print, set())
    assert not (tmp_path / "a.packed").exists()
    packed.pack(tmp_path / "a.keras", tmp_path / "a.packed", print)
    unpack(tmp_path / "a.packed", tmp_path / "b.keras")
    with zipfile.ZipFile(tmp_path / "b.keras") as archive:
        assert archive.read("model.weights.h5") == data


@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_the_size_is_near_what_can_be(share, tmp_path):
    model = keras.Sequential([keras.Input((400,)), layers.Dense(500)])
    size = 400 * 500
    sparse_model(share, model)
    path = keras_bimp.export(model, tmp_path / "a.packed", format="packed")
    density = 1 - share
    entropy = sum(-p * np.log2(p) for p in (share, density) if p > 0) / 8
    # Of 4 bytes, signs and exponents can be compressed.
    bound = size * (4 * density + entropy) + 3000
    assert path.stat().st_size < bound * (0.97 if share < 0.9 else 1.02)


def test_classes_of_ones_own(tmp_path):
    class Twice(layers.Layer):
        def call(self, x):
            return 2 * x

    model = keras.Sequential([keras.Input((2,)), Twice(), layers.Dense(1)])
    path = keras_bimp.export(model, tmp_path / "a.packed", format="packed")
    unpack(path, tmp_path / "a.keras")  # This does not need them.
    with pytest.raises(TypeError, match="Twice"):
        load_packed(path)
    again = load_packed(path, custom_objects={"Twice": Twice})
    assert bits(again) == bits(model)


def test_functions_that_a_file_brings_along_are_refused(tmp_path):
    model = keras.Sequential(
        [keras.Input((2,)), layers.Lambda(lambda x: x), layers.Dense(1)]
    )
    path = keras_bimp.export(model, tmp_path / "a.packed", format="packed")
    with pytest.raises(ValueError, match="safe_mode=False"):
        load_packed(path)
    assert bits(load_packed(path, safe_mode=False)) == bits(model)


def test_damaged_files_are_told(exported, tmp_path):
    _, path = exported
    data = path.read_bytes()
    for place in np.linspace(8, len(data) - 1, 12).astype(int):
        bad = bytearray(data)
        bad[place] ^= 1
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"`filepath`.*damaged"):
            load_packed(path)
    for length in (8, 20, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"`filepath`.*damaged"):
            unpack(path, tmp_path / "a.keras")
    for other in (b"", b"PK", bytes(100)):
        path.write_bytes(other)
        with pytest.raises(ValueError, match="format='packed'"):
            load_packed(path)
    path.unlink()
    with pytest.raises(ValueError, match=r"`filepath`.*No such file"):
        load_packed(path)
    assert not list(tmp_path.iterdir())


def test_bad_targets(exported, tmp_path):
    _, path = exported
    with pytest.raises(ValueError, match=r"`keras_filepath`.*'\.keras'"):
        unpack(path, tmp_path / "a.h5")
    (tmp_path / "a.keras").touch()
    with pytest.raises(ValueError, match=r"filepath`.*a\.keras"):
        unpack(path, tmp_path / "a.keras")
