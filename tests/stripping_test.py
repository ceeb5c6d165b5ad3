"""Where `strip` finds masks, and attributes of a wrapped model."""

import keras
import numpy as np
import pytest
from helpers import array
from helpers import compile_model
from helpers import dense_model
from helpers import fit
from helpers import wrapped as wrapped_model
from keras import layers
from keras import ops

import keras_bimp
from keras_bimp import baselines

pytestmark = [
    pytest.mark.every_backend,
    pytest.mark.slow("jax", "torch"),
]


class Scaled(layers.Wrapper):
    """A wrapper with a weight."""

    def build(self, input_shape):
        super().build(input_shape)
        self.scale = self.add_weight(shape=(), initializer="ones", name="s")

    def call(self, x):
        return self.scale * self.layer(x)

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)


def masked_dense():
    return keras_bimp.Masked(layers.Dense(6))


INSIDE = {
    "time": lambda: layers.TimeDistributed(masked_dense()),
    "time, twice": lambda: layers.TimeDistributed(
        layers.TimeDistributed(masked_dense())
    ),
    "time, of a model": lambda: layers.TimeDistributed(
        keras.Sequential([keras.Input((6,)), masked_dense()])
    ),
    "a wrapper with a weight": lambda: Scaled(masked_dense()),
}


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("name", INSIDE)
def test_masks_inside_wrappers_are_stripped(name, functional):
    keras.utils.set_random_seed(0)
    shape = (3, 5, 6) if name == "time, twice" else (5, 6)
    inner = [INSIDE[name](), layers.Flatten(), layers.Dense(2)]
    if functional:
        inputs = outputs = keras.Input(shape)
        for layer in inner:
            outputs = layer(outputs)
        model = keras.Model(inputs, outputs)
    else:
        model = keras.Sequential([keras.Input(shape), *inner])
    if name == "a wrapper with a weight":
        inner[0].scale.assign(3.0)
    keras_bimp.prune(model, 0.5)
    x = np.random.default_rng(0).standard_normal((4, *shape))
    expected = model.predict(x, verbose=0)
    plain = keras_bimp.strip(model)
    assert not keras_bimp._src.masking.masked_layers(plain)
    np.testing.assert_allclose(
        plain.predict(x, verbose=0), expected, rtol=1e-6, atol=1e-6
    )
    kernels = [v for v in plain.weights if v.name == "kernel"]
    assert sum(int((array(v) == 0).sum()) for v in kernels) == 18
    assert len(plain.weights) == len(model.weights) - 1


class WithoutCall(keras.Model):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def train_step(self, data):
        return {}


class WithCall(WithoutCall):
    def call(self, x):
        return self.encoder(x)


@pytest.mark.parametrize("kind", [WithoutCall, WithCall])
def test_a_class_of_its_own_is_stripped_layer_by_layer(kind):
    masked = keras_bimp.Masked(dense_model())
    model = kind(masked)
    keras_bimp.prune(model, 0.5)
    with pytest.raises(ValueError, match=r"keras_bimp\.strip\(layer\)"):
        keras_bimp.strip(model)
    x = np.random.default_rng(0).standard_normal((4, 6))
    expected = ops.convert_to_numpy(masked(x))
    plain = kind(keras_bimp.strip(masked))
    assert not keras_bimp._src.masking.masked_layers(plain)
    np.testing.assert_allclose(
        ops.convert_to_numpy(plain.encoder(x)), expected, rtol=1e-6, atol=1e-6
    )


def test_a_stripped_layer_has_the_kernels_of_its_rule():
    recipe = baselines.gmp(0.5, interval=1, verbose=0)  # A soft rule.
    masked = keras_bimp.Masked(dense_model(), rule=recipe.rule)
    model = compile_model(keras.Sequential([keras.Input((6,)), masked]))
    fit(model, 3, recipe.callbacks)
    plain = keras_bimp.strip(masked)
    kernels = [v for v in plain.weights if v.name == "kernel"]
    assert sum(int((array(v) == 0).sum()) for v in kernels) == 36


@pytest.mark.parametrize(
    "name",
    [
        "input_shape",
        "output_shape",
        "inputs",
        "outputs",
        "input",
        "output",
        "input_names",
        "output_names",
    ],
)
@pytest.mark.parametrize("functional", [False, True])
def test_a_wrapped_model_has_the_inputs_and_outputs_of_the_plain(
    name, functional
):
    model = dense_model()
    if functional:
        pair = [keras.Input((6,), name=name) for name in "ab"]
        outputs = model(layers.Add()(pair))
        model = keras.Model(pair, [outputs, layers.Dense(2)(outputs)])
    wrapped = keras_bimp.wrap(model)
    if not hasattr(model, name):  # A Sequential model lacks some.
        assert not hasattr(wrapped, name)
        return
    found = getattr(wrapped, name)
    expected = getattr(model, name)
    assert str(found) == str(expected)
    assert keras.tree.flatten(found) == keras.tree.flatten(expected) or (
        keras.tree.flatten(found)[0] is keras.tree.flatten(expected)[0]
    )


def test_export_of_a_wrapped_model_writes_what_strip_returns(tmp_path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Keras exports a SavedModel of plain ops on TensorFlow")
    import tensorflow as tf

    recipe = baselines.gmp(0.5, interval=1, verbose=0)  # A soft rule.
    for model, callbacks in (
        (wrapped_model(), []),
        (keras_bimp.wrap(dense_model(), rule=recipe.rule), recipe.callbacks),
    ):
        compile_model(model)
        fit(model, 3, callbacks)
        if not callbacks:
            keras_bimp.prune(model, 0.5)
        raw = [array(v) for v in model.weights]
        folder = tmp_path / str(bool(callbacks))
        model.export(folder, verbose=False)
        for old, variable in zip(raw, model.weights, strict=True):
            np.testing.assert_array_equal(old, array(variable))
        x = np.random.default_rng(0).standard_normal((4, 6)).astype("float32")
        loaded = tf.saved_model.load(str(folder))
        found = loaded.serve(x).numpy()
        expected = model.predict(x, verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        stripped = keras_bimp.strip(model)
        np.testing.assert_allclose(
            found, stripped.predict(x, verbose=0), rtol=1e-5, atol=1e-6
        )
