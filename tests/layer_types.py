"""A model for each type of layer, shared by tests."""

import keras
from keras import layers
from keras import ops


def layer_model(layer, shape):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    outputs = layer(inputs)
    return keras.Model(inputs, layers.Flatten()(outputs))


class Attention(layers.Layer):
    """Feeds one tensor to an attention layer that takes several."""

    def __init__(self, attention, **kwargs):
        super().__init__(**kwargs)
        self.attention = attention

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x):
        return self.attention(x, x, use_causal_mask=True)


class Custom(layers.Layer):
    """A custom layer: two kernels, a bias, a table."""

    def build(self, shape):
        self.a = self.add_weight(shape=(shape[-1], 4), name="a_kernel")
        self.b = self.add_weight(shape=(4, 4), name="kernel")
        self.bias = self.add_weight(shape=(4, 4), name="bias")

    def call(self, x):
        return ops.tanh(x @ self.a) @ self.b + ops.sum(self.bias)


SEQUENCE = (5, 4)
IMAGE = (6, 6, 4)
# Layer -> (input shape, number of kernels, prunable weights).
LAYERS = {
    "Dense": (lambda: layers.Dense(3), (4,), 1, 12),
    "EinsumDense": (
        lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3)),
        SEQUENCE,
        1,
        24,
    ),
    "Conv1D": (lambda: layers.Conv1D(3, 2), SEQUENCE, 1, 24),
    "Conv2D": (lambda: layers.Conv2D(4, 3, groups=2), IMAGE, 1, 72),
    "Conv3D": (lambda: layers.Conv3D(2, 2), (3, 3, 3, 2), 1, 32),
    "Conv1DTranspose": (
        lambda: layers.Conv1DTranspose(3, 2),
        SEQUENCE,
        1,
        24,
    ),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(3, 2), IMAGE, 1, 48),
    "Conv3DTranspose": (
        lambda: layers.Conv3DTranspose(2, 2),
        (3, 3, 3, 2),
        1,
        32,
    ),
    "DepthwiseConv1D": (lambda: layers.DepthwiseConv1D(2), SEQUENCE, 1, 8),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(3), IMAGE, 1, 36),
    "SeparableConv1D": (
        lambda: layers.SeparableConv1D(3, 2),
        SEQUENCE,
        2,
        8 + 12,
    ),
    "SeparableConv2D": (
        lambda: layers.SeparableConv2D(3, 2),
        IMAGE,
        2,
        16 + 12,
    ),
    "LSTM": (lambda: layers.LSTM(3, return_sequences=True), SEQUENCE, 2, 84),
    "GRU": (lambda: layers.GRU(3), SEQUENCE, 2, 63),
    "SimpleRNN": (lambda: layers.SimpleRNN(3), SEQUENCE, 2, 21),
    "Bidirectional": (
        lambda: layers.Bidirectional(layers.LSTM(3)),
        SEQUENCE,
        4,
        168,
    ),
    "TimeDistributed": (
        lambda: layers.TimeDistributed(layers.Dense(3)),
        SEQUENCE,
        1,
        12,
    ),
    "MultiHeadAttention": (
        lambda: Attention(layers.MultiHeadAttention(2, 3)),
        SEQUENCE,
        4,
        96,
    ),
    "GroupQueryAttention": (
        lambda: Attention(layers.GroupQueryAttention(3, 4, 2)),
        SEQUENCE,
        4,
        144,
    ),
    "custom": (Custom, SEQUENCE, 2, 32),
    "nested": (
        lambda: keras.Sequential([layers.Dense(3), layers.Dense(2)]),
        (4,),
        2,
        18,
    ),
}
