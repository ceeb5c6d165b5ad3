"""Models that lose whole units, and how they are pruned."""

import keras
import numpy as np
from keras import layers

import keras_bimp


def randomize(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value = rng.normal(size=variable.shape)
        if variable.name == "moving_variance":
            value = np.abs(value) + 0.5
        variable.assign(value)


def build(body, shape):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, body(inputs))
    randomize(model)
    return model


def prune(model, sparsity=0.5, **kwargs):
    """Returns the result of `prune`, and the stripped model."""
    wrapped = keras_bimp.wrap(model)
    pruning = keras_bimp.prune(
        wrapped, sparsity, granularity="unit", optimizer=None, **kwargs
    )
    return pruning, keras_bimp.strip(wrapped)


def assert_same(model, small, seed=1):
    shapes = [x.shape[1:] for x in model.inputs]
    rng = np.random.default_rng(seed)
    x = [rng.normal(size=(3, *shape)).astype("float32") for shape in shapes]
    before, after = (
        keras.ops.convert_to_numpy(f(x[0] if len(x) == 1 else x))
        for f in (model, small)
    )
    np.testing.assert_allclose(
        after, before, rtol=0, atol=1e-5 * np.abs(before).max()
    )


def transformer(blocks=2, width=8, inner=16):
    def body(x):
        for i in range(blocks):
            y = layers.LayerNormalization()(x)
            y = layers.MultiHeadAttention(4, 2, name=f"attention{i}")(
                y, y, use_causal_mask=True
            )
            x = layers.Add()([x, y])
            y = layers.LayerNormalization()(x)
            y = layers.Dense(inner, "gelu", name=f"inner{i}")(y)
            x = layers.Add()([x, layers.Dense(width, name=f"outer{i}")(y)])
        return layers.Dense(7, name="logits")(layers.LayerNormalization()(x))

    return build(body, (5, width))
