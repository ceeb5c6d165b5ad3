"""Models with pruned filters, and what is said of them shrunk."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_bimp
from keras_bimp._src.backends import as_array

GONE = [1, 2, 5]  # Filters that the tests prune, of 8.


def prune(*pruned, gone=GONE):
    """Zeros filters of some layers of any kind."""
    for layer in pruned:
        name = "kernel"
        if isinstance(layer, layers.SeparableConv2D):
            name = "pointwise_kernel"
        kernel = as_array(getattr(layer, name))
        if isinstance(layer, (layers.Conv2DTranspose, layers.DepthwiseConv2D)):
            kernel[..., gone, :] = 0
        else:
            kernel[..., gone] = 0
        getattr(layer, name).assign(kernel)


def randomize(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value = rng.normal(size=variable.shape)
        if variable.name == "moving_variance":
            value = np.abs(value) + 0.5
        variable.assign(value)


def build(body, *pruned, shape=(6, 6, 3), gone=GONE):
    """Builds a model of random weights, with some filters pruned."""
    inputs = keras.Input(shape)
    model = keras.Model(inputs, body(inputs))
    randomize(model)
    prune(*pruned, gone=gone)
    return model


def assert_same(model, shrunk, seed=1):
    rng = np.random.default_rng(seed)
    x = keras.tree.map_structure(
        lambda t: rng.normal(size=(3, *t.shape[1:])).astype("float32"),
        model._inputs_struct,
    )
    before, after = (
        [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(f(x))]
        for f in (model, shrunk)
    )
    for y, other in zip(before, after, strict=True):
        scale = np.abs(y).max()
        np.testing.assert_allclose(other, y, rtol=0, atol=1e-5 * scale)


def shrunk_shapes(model, **kwargs):
    """Shrinks, checks outputs, and returns name -> first weight's shape."""
    shrunk = keras_bimp.shrink(model, **{"align": 1, **kwargs})
    assert_same(model, shrunk)
    return {
        layer.name: tuple(layer.weights[0].shape)
        for layer in shrunk._flatten_layers()
        if layer.weights and not isinstance(layer, keras.Model)
    }


def assert_stays(model):
    with pytest.raises(ValueError, match=r"`model`.*granularity='unit'"):
        keras_bimp.shrink(model, align=1)


def head(x):
    return layers.Dense(2, name="head")(layers.GlobalAveragePooling2D()(x))


def conv(filters=8, size=3, **kwargs):
    return layers.Conv2D(filters, size, **kwargs)
