"""Subclasses of Functional, and unusual calls of models."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_bimp
from keras_bimp._src.backends import as_array


class Tower(keras.Model):
    """A Functional model by its constructor, with custom attributes."""

    def __init__(self, width, **kwargs):
        inputs = keras.Input((8, 8, 3), name="image")
        h = layers.Conv2D(width, 3, activation="relu")(inputs)
        h = layers.Conv2D(width, 3, activation="relu")(h)
        super().__init__(inputs, h, **kwargs)
        self.width = width

    def get_config(self):
        return {"width": self.width, "name": self.name}


class Halved(Tower):
    """The same, with a `call` that is not its graph."""

    def call(self, inputs, training=None, mask=None):
        return 0.5 * super().call(inputs, training=training)


def two_inputs():
    """Builds a model whose inputs are not in the order of their names."""
    one, other = keras.Input((6,), name="z"), keras.Input((8,), name="a")
    h = layers.Dense(16, activation="relu")(one)
    h = layers.Concatenate()([h, layers.Dense(12)(other)])
    return keras.Model([one, other], layers.Dense(5)(h))


def random(model):
    """Sets biases of a model, which filters of zeros then output."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.name == "bias":
            variable.assign(rng.normal(size=variable.shape))
    return model


def half_shrunk(model, x, kinds=(layers.Conv2D, layers.Dense)):
    """Zeros the second half of hidden layers' outputs, and shrinks."""
    for layer in list(random(model)._flatten_layers()):
        if isinstance(layer, kinds) and layer.name != "head":
            kernel = np.array(as_array(layer.kernel))
            kernel[..., kernel.shape[-1] // 2 :] = 0
            layer.kernel.assign(kernel)
    small = keras_bimp.shrink(model, align=1)
    np.testing.assert_allclose(
        ops.convert_to_numpy(small(x)),
        ops.convert_to_numpy(model(x)),
        rtol=1e-4,
        atol=1e-5,
    )
    return small


def images():
    return np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32")


def classifier(base):
    inputs = keras.Input((8, 8, 3))
    h = layers.GlobalAveragePooling2D()(base(inputs))
    return keras.Model(inputs, layers.Dense(5, name="head")(h))


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_a_subclass_of_functional_inside_is_followed():
    small = half_shrunk(classifier(Tower(16)), images())
    convs = [x for x in small._flatten_layers() if isinstance(x, layers.Conv2D)]
    assert [conv.filters for conv in convs] == [8, 8]


def test_a_subclass_of_functional_becomes_a_functional_model():
    base = Tower(16)
    outputs = layers.Dense(5, name="head")(base.output)
    whole = Whole(base.input, outputs)
    small = half_shrunk(whole, images())
    assert type(small) is keras.Model(base.inputs, outputs).__class__
    assert small.count_params() < 0.5 * whole.count_params()


class Whole(keras.Model):
    """A class that is Functional by the way it is constructed."""


def test_a_call_of_its_own_is_no_graph():
    model = classifier(Halved(16))
    with pytest.raises(ValueError, match="Halved is not followed"):
        half_shrunk(model, images())
    with pytest.raises(ValueError, match="a custom `call`"):
        keras_bimp.shrink(Halved(16))


def test_a_model_made_for_a_list_may_be_called_on_a_tensor():
    whole = Tower(16)
    extractor = keras.Model(whole.inputs, whole.layers[-1].output)
    small = half_shrunk(classifier(extractor), images())
    assert small.count_params() < 0.5 * classifier(extractor).count_params()


def test_coupled_filters_are_found_through_a_subclass():
    class Residual(keras.Model):
        def __init__(self):
            inputs = keras.Input((8, 8, 3))
            h = layers.Conv2D(16, 3, padding="same")(inputs)
            h = h + layers.Conv2D(16, 3, padding="same")(h)
            super().__init__(inputs, h)

    model = classifier(Residual())
    wrapped = keras_bimp.wrap(model)
    wrapped.compile("sgd", "mse")
    keras_bimp.prune(wrapped, 0.5, granularity="filter", allocation="coupled")
    one, other = [
        as_array(x.kernel).any((0, 1, 2))
        for x in model._flatten_layers()
        if isinstance(x, layers.Conv2D)
    ]
    np.testing.assert_array_equal(one, other)
    assert 0 < one.sum() < 16


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_a_dictionary_is_given_to_a_list_by_name():
    inner = two_inputs()
    inputs = {name: keras.Input((8,), name=name) for name in "az"}
    given = {
        "a": layers.Dense(8)(inputs["a"]),
        "z": layers.Dense(6)(inputs["z"]),
    }
    outputs = layers.Dense(3, name="head")(inner(given))
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(2)
    x = {name: rng.normal(size=(4, 8)).astype("float32") for name in "az"}
    small = half_shrunk(model, x)
    wide = sorted(
        layer.units
        for layer in small._flatten_layers()
        if isinstance(layer, layers.Dense)
    )
    assert wide == [2, 3, 3, 4, 6, 8]
