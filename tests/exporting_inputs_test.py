"""The inputs on which an exported model is compared with the original."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_bimp
from keras_bimp._src.exporting.inputs import tried_inputs

export_module = sys.modules["keras_bimp._src.exporting.export"]


def tokens(count=50, dtype="int32", **kwargs):
    """Builds a model of masked sequences, which zeros do not test."""
    return keras.Sequential(
        [
            keras.Input((6,), dtype=dtype),
            layers.Embedding(count, 4, mask_zero=True, **kwargs),
            layers.LSTM(3, unroll=True),
            layers.Dense(2),
        ]
    )


def shifted(x):
    """Shifts values, which is not known from the graph."""
    return x + 3


class Both(keras.layers.Layer):
    """A layer without a known graph."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = layers.Embedding(9, 4)
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(self.table(x))


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.parametrize("dtype", ["int32", "uint8", "float32"])
def test_numbers_are_those_of_the_embedding(dtype):
    (x,), (y,) = tried_inputs(tokens(dtype=dtype))
    assert x.dtype == dtype
    assert x.min() == 0
    assert 7 < x.max() < 50
    assert x.astype(int).tolist() == x.tolist()
    # Some are padded, so that masks count, and others are not.
    padded = (x == 0).any(axis=1)
    assert padded.any()
    assert not padded.all()
    assert len(np.unique(y)) == y.size


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_each_input_has_its_own_range():
    words = keras.Input((5,), dtype="int32")
    kind = keras.Input((5,), dtype="int32")
    counts = keras.Input((5,), dtype="bool")
    y = layers.Embedding(500, 4)(keras.ops.flip(words, 1)) + layers.Embedding(
        2, 4
    )(kind)
    inner = keras.Model([words, kind], y)
    y = inner([layers.Reshape((5,))(words), kind])
    y = y * keras.ops.expand_dims(keras.ops.cast(counts, "float32"), -1)
    model = keras.Model([words, kind, counts], layers.Dense(2)(y))
    (words, kind, counts), _ = tried_inputs(model)
    assert 20 < words.max() < 500
    assert set(kind.flat) == {0, 1}
    assert set(counts.flat) == {False, True}


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_layers_inside_others_are_found():
    x = keras.Input((5,), dtype="int32")
    (found,), _ = tried_inputs(keras.Model(x, Both()(x)))
    assert 2 < found.max() < 9


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_a_model_without_a_graph():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.both = Both()

        def call(self, x):
            return self.both(x)

    model = Model()
    model(np.zeros((1, 5), "int32"))
    (found,), _ = tried_inputs(model)
    assert 2 < found.max() < 9


def test_zeros_where_nothing_else_runs(tmp_path):
    x = keras.Input((5,), dtype="int32")
    y = layers.Embedding(4, 2)(shifted(x))
    model = keras.Model(x, y)
    (found,), _ = tried_inputs(model)
    assert not found.any()
    with pytest.warns(UserWarning, match=r"zeros only.*`example_data`"):
        keras_bimp.export(model, tmp_path / "m.onnx", "onnx")
    keras_bimp.export(
        model, tmp_path / "n.onnx", "onnx", example_data=found - 3
    )


@pytest.mark.parametrize(
    ("layer", "dtype", "known"),
    [
        (layers.CategoryEncoding(7), "int32", range(7)),
        (
            layers.IntegerLookup(
                vocabulary=[5, 90, 100], num_oov_indices=0, output_mode="int"
            ),
            "int64",
            [5, 90, 100],
        ),
        (
            layers.StringLookup(vocabulary=["cat", "dog"], num_oov_indices=0),
            "string",
            ["cat", "dog"],
        ),
        (layers.Discretization([3.0, 8.0, 20.0]), "float32", None),
    ],
)
def test_other_layers_that_number_things(layer, dtype, known):
    x = keras.Input((6,), dtype=dtype)
    (found,), (y,) = tried_inputs(keras.Model(x, layer(x)))
    assert len(set(found.flat)) > 1
    assert known is None or set(found.flat) <= set(known)
    assert y.max() > 0
    if known is None:
        assert found.max() > 8
        assert found.min() < 8


def test_texts_have_words_that_are_known():
    x = keras.Input((), dtype="string")
    layer = layers.TextVectorization(
        vocabulary=["good", "bad"], output_sequence_length=4
    )
    (found,), (y,) = tried_inputs(keras.Model(x, layer(x)))
    assert found.shape == (3,)
    assert {2, 3} & set(y.flat)  # 0 is padding, 1 is unknown.


def test_masked_steps_are_there():
    x = keras.Input((6, 3))
    y = layers.LSTM(2)(layers.Masking(-1.0)(x))
    (found,), _ = tried_inputs(keras.Model(x, y))
    masked = (found == -1).all(axis=-1)
    assert masked.any()
    assert not masked.all()


def test_a_wrong_mask_is_seen(tmp_path, monkeypatch):
    """The exported model counts padding steps."""
    good = tokens()
    bad = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(50, 4),
            layers.LSTM(3, unroll=True),
            layers.Dense(2),
        ]
    )
    bad.set_weights(good.get_weights())
    write = export_module.write
    monkeypatch.setattr(
        export_module, "write", lambda model, *args: write(bad, *args)
    )
    with pytest.raises(RuntimeError, match="must compute the same"):
        keras_bimp.export(good, tmp_path / "m.tflite", "litert")


class Positions(keras.layers.Layer):
    """Adds a table of positions, which limits the number of steps."""

    def __init__(self, steps, exactly=False, **kwargs):
        super().__init__(**kwargs)
        self.steps = steps
        self.exactly = exactly

    def build(self, shape):
        self.table = self.add_weight(shape=(self.steps, shape[-1]))

    def call(self, x):
        steps = keras.ops.shape(x)[1]
        if self.exactly and isinstance(steps, int) and steps != self.steps:
            raise ValueError(f"\x1b[1mno {steps} steps\x1b[0m")
        return x + keras.ops.slice(self.table, (0, 0), (steps, x.shape[-1]))

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, self.compute_dtype)


def of_positions(*args):
    x = keras.Input((None,), dtype="int32")
    y = Positions(*args)(layers.Embedding(30, 4)(x))
    return keras.Model(x, layers.Dense(2)(layers.GlobalMaxPooling1D()(y)))


FILES = {
    "tf_saved_model": "1",
    "litert": "m.tflite",
    "onnx": "m.onnx",
    "openvino": "m.xml",
}


@pytest.mark.slow
@pytest.mark.parametrize("format", FILES)
@pytest.mark.parametrize("steps", [3, 20])
def test_short_sequences(format, steps, tmp_path):
    model = of_positions(steps)
    keras_bimp.export(model, tmp_path / FILES[format], format)


@pytest.mark.slow
@pytest.mark.parametrize("format", FILES)
def test_examples_where_the_length_is_not_known(format, tmp_path):
    model = of_positions(21, True)
    path = tmp_path / FILES[format]
    with pytest.raises(
        ValueError, match=r"`example_data`.*no 32 steps"
    ) as info:
        keras_bimp.export(model, path, format)
    assert "\x1b" not in str(info.value)
    assert not list(tmp_path.iterdir())
    x = np.arange(42).reshape(2, 21) % 30
    keras_bimp.export(model, path, format, example_data=x)


def test_nothing_is_run_without_verification(tmp_path):
    model = of_positions(21, True)
    keras_bimp.export(model, tmp_path / "m.onnx", "onnx", verify=False)


def test_bad_examples(tmp_path):
    with pytest.raises(ValueError, match="`example_data` must be examples"):
        keras_bimp.export(
            tokens(), tmp_path / "1", example_data=np.zeros((2, 9))
        )
