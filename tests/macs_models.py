"""Models of one layer each, and their multiply-adds, counted by hand."""

import contextlib
import functools
import unittest.mock

import keras
import numpy as np
from keras import layers
from keras import ops


def model_of(function, *shapes, dtype="float32"):
    """Builds a Functional model with inputs of these shapes."""
    inputs = [keras.Input(shape, dtype=dtype) for shape in shapes]
    return keras.Model(inputs, function(*inputs))


def attend(attention):
    return lambda *inputs: attention(list(inputs))


# Layers of Keras.

SEQUENCE = (5, 4)
OTHER = (6, 7)  # Another sequence, of another length.
IMAGE = (7, 9, 4)
FIRST = (4, 7, 9)  # The same with the channels first.
VOLUME = (3, 4, 5, 2)
MULTI_HEAD = layers.MultiHeadAttention
# Name -> (layer or function, shapes of its inputs, multiply-adds). A count is
# the size of the kernel times the positions that it is used at.
COUNTS = {
    "dense": (layers.Dense(3), [(4,)], 4 * 3),
    "dense over positions": (layers.Dense(3), [IMAGE], 4 * 3 * 7 * 9),
    "einsum": (
        layers.EinsumDense("abc,cde->abde", (None, 2, 3)),
        [SEQUENCE],
        4 * 2 * 3 * 5,
    ),
    "einsum with an ellipsis": (
        layers.EinsumDense("...x,xy->...y", 3),
        [IMAGE],
        4 * 3 * 7 * 9,
    ),
    # Each step has a separate kernel.
    "einsum by steps": (
        layers.EinsumDense("abc,bcd->abd", (5, 3)),
        [SEQUENCE],
        5 * 4 * 3,
    ),
    "conv1d valid": (layers.Conv1D(3, 2), [SEQUENCE], 2 * 4 * 3 * 4),
    "conv1d causal": (
        layers.Conv1D(3, 2, padding="causal", dilation_rate=2),
        [SEQUENCE],
        2 * 4 * 3 * 5,
    ),
    "conv2d valid": (layers.Conv2D(5, 3), [IMAGE], 9 * 4 * 5 * 5 * 7),
    "conv2d same": (
        layers.Conv2D(5, 3, padding="same"),
        [IMAGE],
        9 * 4 * 5 * 7 * 9,
    ),
    "conv2d same, strided": (
        layers.Conv2D(5, 3, 2, padding="same"),
        [IMAGE],
        9 * 4 * 5 * 4 * 5,
    ),
    "conv2d valid, strided": (
        layers.Conv2D(5, 3, (2, 1)),
        [IMAGE],
        9 * 4 * 5 * 3 * 7,
    ),
    # 3 taps, two apart, reach over 5 pixels.
    "conv2d dilated": (
        layers.Conv2D(5, 3, dilation_rate=2),
        [IMAGE],
        9 * 4 * 5 * 3 * 5,
    ),
    # A filter sees 2 of the 4 channels.
    "conv2d grouped": (
        layers.Conv2D(6, 3, groups=2),
        [IMAGE],
        9 * 2 * 6 * 5 * 7,
    ),
    "conv2d channels first": (
        layers.Conv2D(5, 3, 2, data_format="channels_first"),
        [FIRST],
        9 * 4 * 5 * 3 * 4,
    ),
    "conv3d": (layers.Conv3D(3, 2), [VOLUME], 8 * 2 * 3 * 2 * 3 * 4),
    # Each position of the inputs meets the whole kernel.
    "conv1d transposed": (
        layers.Conv1DTranspose(3, 2, 2),
        [SEQUENCE],
        2 * 4 * 3 * 5,
    ),
    "conv2d transposed": (
        layers.Conv2DTranspose(5, 3, 2, padding="same"),
        [IMAGE],
        9 * 4 * 5 * 7 * 9,
    ),
    "conv2d transposed, channels first": (
        layers.Conv2DTranspose(5, 3, 2, data_format="channels_first"),
        [FIRST],
        9 * 4 * 5 * 7 * 9,
    ),
    "conv3d transposed": (
        layers.Conv3DTranspose(3, 2),
        [VOLUME],
        8 * 2 * 3 * 3 * 4 * 5,
    ),
    "depthwise conv1d": (
        layers.DepthwiseConv1D(2, depth_multiplier=3),
        [SEQUENCE],
        2 * 4 * 3 * 4,
    ),
    "depthwise conv2d": (
        layers.DepthwiseConv2D(3, 2, depth_multiplier=2),
        [IMAGE],
        9 * 4 * 2 * 3 * 4,
    ),
    "depthwise conv2d, channels first": (
        layers.DepthwiseConv2D(3, data_format="channels_first"),
        [FIRST],
        9 * 4 * 5 * 7,
    ),
    # Each channel separately, twice, and then all of them.
    "separable conv1d": (
        layers.SeparableConv1D(3, 2, depth_multiplier=2),
        [SEQUENCE],
        (2 * 4 * 2 + 8 * 3) * 4,
    ),
    "separable conv2d": (
        layers.SeparableConv2D(5, 3, depth_multiplier=2),
        [IMAGE],
        (9 * 4 * 2 + 8 * 5) * 5 * 7,
    ),
    "separable conv2d, channels first": (
        layers.SeparableConv2D(5, 3, data_format="channels_first"),
        [FIRST],
        (9 * 4 + 4 * 5) * 5 * 7,
    ),
    # Three projections of 5 steps to 2 heads of 3, one back, all pairs twice.
    "multi-head attention": (
        lambda x: MULTI_HEAD(2, 3)(x, x, use_causal_mask=True),
        [SEQUENCE],
        3 * (4 * 6 * 5) + 6 * 4 * 5 + 2 * (2 * 5 * 5 * 3),
    ),
    "cross attention by name": (
        lambda x, y: MULTI_HEAD(2, 3)(query=x, value=y),
        [SEQUENCE, OTHER],
        4 * 6 * 5 + 2 * (7 * 6 * 6) + 6 * 4 * 5 + 2 * (2 * 5 * 6 * 3),
    ),
    # Scores of keys of size 3, weights for values of size 2.
    "cross attention with key and value": (
        lambda x, y, z: MULTI_HEAD(2, 3, value_dim=2)(x, key=z, value=y),
        [SEQUENCE, OTHER, (6, 3)],
        (4 * 6 * 5 + 3 * 6 * 6 + 7 * 4 * 6 + 4 * 4 * 5)
        + (2 * 5 * 6 * 3 + 2 * 5 * 6 * 2),
    ),
    "attention within rows": (
        lambda x: MULTI_HEAD(2, 3, attention_axes=(2,))(x, x),
        [(3, 5, 4)],
        3 * (4 * 6 * 15) + 6 * 4 * 15 + 2 * (2 * 15 * 5 * 3),
    ),
    "attention over rows and columns": (
        lambda x: MULTI_HEAD(2, 3)(x, x),
        [(3, 5, 4)],
        3 * (4 * 6 * 15) + 6 * 4 * 15 + 2 * (2 * 15 * 15 * 3),
    ),
    # 4 query heads share 2 key-value heads.
    "grouped-query attention": (
        lambda x, y: layers.GroupQueryAttention(3, 4, 2)(x, y),
        [SEQUENCE, (6, 4)],
        (4 * 12 * 5 + 2 * (4 * 6 * 6) + 12 * 4 * 5) + 2 * (4 * 5 * 6 * 3),
    ),
    "attention": (
        attend(layers.Attention()),
        [SEQUENCE, (6, 4)],
        2 * (5 * 6 * 4),
    ),
    "attention with keys": (
        attend(layers.Attention(use_scale=True)),
        [SEQUENCE, (6, 3), (6, 4)],
        5 * 6 * 4 + 5 * 6 * 3,
    ),
    # Scores are sums, not products.
    "attention by sums": (
        attend(layers.Attention(score_mode="concat")),
        [SEQUENCE, (6, 4)],
        5 * 6 * 4,
    ),
    # Scores are products with the scale.
    "additive attention": (
        attend(layers.AdditiveAttention()),
        [SEQUENCE, (6, 4)],
        2 * (5 * 6 * 4),
    ),
    "additive attention without scale": (
        attend(layers.AdditiveAttention(use_scale=False)),
        [SEQUENCE, (6, 4)],
        5 * 6 * 4,
    ),
    # Each of 5 steps: 4 inputs and 3 units, times 3 units and 4 gates.
    "lstm": (layers.LSTM(3), [SEQUENCE], 5 * (4 + 3) * 3 * 4),
    "lstm unrolled, with all it can return": (
        lambda x: layers.LSTM(
            3, unroll=True, return_sequences=True, return_state=True
        )(x)[0],
        [SEQUENCE],
        5 * (4 + 3) * 3 * 4,
    ),
    "gru": (layers.GRU(3, go_backwards=True), [SEQUENCE], 5 * (4 + 3) * 3 * 3),
    "simple rnn": (layers.SimpleRNN(3), [SEQUENCE], 5 * (4 + 3) * 3),
    "stacked cells": (
        lambda x: layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)])(x),
        [SEQUENCE],
        5 * ((4 + 3) * 3 * 4 + (3 + 2) * 2 * 3),
    ),
    "cells of one name": (
        lambda x: layers.RNN([layers.GRUCell(3, name="a") for _ in "ab"])(x),
        [SEQUENCE],
        5 * ((4 + 3) * 3 * 3 + (3 + 3) * 3 * 3),
    ),
    "a cell for one step": (
        lambda x, h: layers.GRUCell(3)(x, [h])[0],
        [(4,), (3,)],
        (4 + 3) * 3 * 3,
    ),
    "a simple cell for one step": (
        lambda x, h: layers.SimpleRNNCell(3)(x, [h])[0],
        [(4,), (3,)],
        (4 + 3) * 3,
    ),
    # Both kernels at every position of the outputs in every step.
    "conv lstm 1d": (
        layers.ConvLSTM1D(3, 3),
        [(4, 7, 2)],
        4 * 5 * (3 * 2 + 3 * 3) * 3 * 4,
    ),
    "conv lstm 2d": (
        lambda x: layers.ConvLSTM2D(
            3, 3, return_sequences=True, return_state=True
        )(x)[0],
        [(4, 6, 7, 2)],
        4 * (4 * 5) * (9 * 2 + 9 * 3) * 3 * 4,
    ),
    "conv lstm 3d": (
        layers.ConvLSTM3D(2, 2),
        [(3, 4, 4, 4, 1)],
        3 * (3 * 3 * 3) * (8 * 1 + 8 * 2) * 2 * 4,
    ),
    "bidirectional": (
        lambda x: layers.Bidirectional(layers.LSTM(3))(x),
        [SEQUENCE],
        2 * 5 * (4 + 3) * 3 * 4,
    ),
    "time-distributed": (
        lambda x: layers.TimeDistributed(layers.Conv2D(5, 3))(x),
        [(3, *IMAGE)],
        3 * (9 * 4 * 5 * 5 * 7),
    ),
    "spectral norm": (
        lambda x: layers.SpectralNormalization(layers.Dense(3))(x),
        [(4,)],
        4 * 3,
    ),
    "dot": (attend(layers.Dot(axes=(2, 1))), [SEQUENCE, (4, 6)], 5 * 4 * 6),
    "dot over one axis": (
        attend(layers.Dot(axes=1)),
        [SEQUENCE, (5, 6)],
        4 * 5 * 6,
    ),
    "dot of vectors": (
        attend(layers.Dot(axes=-1, normalize=True)),
        [(5,), (5,)],
        5,
    ),
    "nothing that counts": (
        lambda x: layers.Flatten()(
            layers.MaxPooling2D()(
                layers.ReLU()(layers.BatchNormalization()(x + 2 * x))
            )
        ),
        [IMAGE],
        0,
    ),
    # Operations that a Functional model calls directly.
    "matmul": (ops.matmul, [SEQUENCE, (4, 6)], 5 * 4 * 6),
    "matmul of a matrix and vectors": (
        lambda x: x @ np.ones((4,), "float32"),
        [SEQUENCE],
        5 * 4,
    ),
    "ops.einsum": (
        lambda x, y: ops.einsum("bqd,bkd->bqk", x, y),
        [SEQUENCE, (6, 4)],
        5 * 6 * 4,
    ),
    "ops.einsum with an ellipsis": (
        lambda x, y: ops.einsum("...qd,dk->...qk", x, y[0]),
        [(3, 5, 4), (4, 6)],
        3 * 5 * 6 * 4,
    ),
    "ops.einsum of one": (
        lambda x: ops.einsum("bqd->bdq", x),
        [SEQUENCE],
        0,
    ),
    "ops.tensordot": (
        lambda x: ops.tensordot(x, np.ones((5, 4, 3), "float32"), axes=2),
        [SEQUENCE],
        5 * 4 * 3,
    ),
    "ops.dot_product_attention": (
        lambda x, y: ops.dot_product_attention(x, y, y),
        [(5, 2, 3), (6, 2, 3)],
        2 * (2 * 5 * 6 * 3),
    ),
}
# The same, of indices.
LOOK_UPS = {
    "embedding": (layers.Embedding(10, 4), [(5,)], 0),
    "recurrence with a mask": (
        lambda x: layers.LSTM(3, return_sequences=True)(
            layers.Embedding(10, 4, mask_zero=True)(x)
        ),
        [(5,)],
        5 * (4 + 3) * 3 * 4,
    ),
    "reversed embedding": (
        lambda x: (table := layers.ReversibleEmbedding(10, 4))(
            table(x), reverse=True
        ),
        [(5,)],
        4 * 10 * 5,
    ),
    "reversed embedding with two tables": (
        lambda x: (table := layers.ReversibleEmbedding(10, 4, False))(
            table(x), reverse=True
        ),
        [(5,)],
        4 * 10 * 5,
    ),
}


# Layers that fail in Keras on a backend.
FAILING = {("jax", "cross attention with key and value")}


def made_quickly(make):
    """Returns the result of `make`, with kernels drawn by NumPy.

    JAX would compile its random numbers for each shape.
    """
    rng = np.random.default_rng(0)

    def draw(initializer, shape, dtype=None):
        return ops.cast(rng.uniform(0.1, 1, shape), dtype or "float32")

    with contextlib.ExitStack() as stack:
        for kind in ("VarianceScaling", "Orthogonal", "RandomUniform"):
            kind = getattr(keras.initializers, kind)
            stack.enter_context(
                unittest.mock.patch.object(kind, "__call__", draw)
            )
        return make()


@functools.cache
def models():
    return made_quickly(
        lambda: {
            name: model_of(function, *shapes, dtype=dtype)
            for given, dtype in ((COUNTS, "float32"), (LOOK_UPS, "int32"))
            for name, (function, shapes, _) in given.items()
            if (keras.backend.backend(), name) not in FAILING
        }
    )


def mixed_model():
    """Builds convolutions, attention and recurrence over images and ids."""
    images, indices = keras.Input((32, 32, 3)), keras.Input((6,), dtype="int32")
    x = layers.Conv2D(8, 3, 2, padding="same", use_bias=False)(images)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(8, 3, padding="same", groups=4)(x)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.SeparableConv2D(12, 3, 2, padding="same")(x)
    x = layers.Dropout(0.5)(layers.Conv2DTranspose(8, 2, 2)(x))
    x = layers.AveragePooling2D(4)(layers.SpatialDropout2D(0.2)(x))
    x = layers.Reshape((16, 8))(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 5)(x, x)])
    words = layers.Embedding(20, 8)(indices)
    words = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(words)
    x = layers.GroupQueryAttention(3, 4, 2)(x, words)
    x = layers.TimeDistributed(layers.Dense(10, activation="relu"))(x)
    x = layers.GaussianNoise(0.1)(layers.GRU(6, return_sequences=True)(x))
    x = ops.matmul(x, ops.transpose(x, (0, 2, 1)))
    return keras.Model([images, indices], layers.Dense(10)(layers.Flatten()(x)))


MIXED = (
    27 * 8 * 16 * 16
    + 9 * 2 * 8 * 16 * 16
    + 9 * 8 * 16 * 16
    + (9 * 8 + 8 * 12) * 8 * 8
    + 4 * 12 * 8 * 8 * 8
    + (4 * (8 * 10 * 16) + 2 * (2 * 16 * 16 * 5))
    + 2 * 6 * (8 + 4) * 4 * 4
    + (8 * 12 * 16 + 2 * (8 * 6 * 6) + 12 * 8 * 16 + 2 * (4 * 16 * 6 * 3))
    + 8 * 10 * 16
    + 16 * (10 + 6) * 6 * 3
    + 16 * 6 * 16
    + 256 * 10
)
