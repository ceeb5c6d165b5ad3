"""MaxViT: convolutions, attention within windows and across a grid."""

import dataclasses

import keras
import numpy as np
from keras import layers
from keras import ops

from . import pieces


def maxvit_t(
    classes=1000,
    input_shape=(224, 224, 3),
    weight_decay=0.0,
    width=64,
    blocks=(2, 2, 5, 2),
    head_size=32,
    window=7,
    stem_strides=2,
    stochastic_depth=0.0,
):
    """MaxViT-T of Tu et al. (2022).

    It has 30,919,624 parameters, of which 30,757,056 are prunable, and
    5,558,046,720 multiply-adds, of which 177,020,928 are products of queries,
    keys and values.

    Args:
        classes: Number of classes.
        input_shape: Height and width must be multiples of 32. In each stage
            (1/4, 1/8, 1/16 and 1/32 of them) they must be multiples of the
            window. For small images, `stem_strides=1` doubles the positions.
        weight_decay: Coupled, for all kernels.
        width: Channels of the stem and of the first stage; the others have 2,
            4 and 8 times as many.
        blocks: Number of blocks in each stage.
        head_size: Channels of an attention head.
        window: Attention is among `window` x `window` positions, or among all
            if a stage has fewer. 8 fits images of 32x32 and 64x64 pixels.
        stem_strides: Strides of the first convolution.
        stochastic_depth: The probability of skipping a residual branch of the
            last block in training. It increases linearly from 0 at the first.
    """
    settings = _Settings(weight_decay, head_size, window)
    convolution = settings.convolution
    inputs = keras.Input(input_shape)
    x = ops.gelu(pieces.batch_norm(convolution(width, 3, stem_strides)(inputs)))
    x = convolution(width, 3, use_bias=True)(x)
    skip_rates = iter(np.linspace(0, stochastic_depth, sum(blocks)).tolist())
    for stage, count in enumerate(blocks):
        for i in range(count):
            block = dataclasses.replace(settings, skip_rate=next(skip_rates))
            x = _inverted_bottleneck(x, width * 2**stage, 1 if i else 2, block)
            for across in (False, True):
                x = _attention(x, across, block)
                x = _perceptron(x, block)
    x = layers.GlobalAveragePooling2D()(x)
    x = settings.dense(x.shape[-1], activation="tanh")(_layer_norm(x))
    return keras.Model(inputs, settings.dense(classes, use_bias=False)(x))


@dataclasses.dataclass(frozen=True)
class _Settings:
    """Settings that the parts of a block share."""

    weight_decay: float
    head_size: int
    window: int
    skip_rate: float = 0.0

    @property
    def convolution(self):
        return pieces.convolution(self.weight_decay)

    def dense(self, units, **kwargs):
        regularizer = pieces.regularizer(self.weight_decay)
        return layers.Dense(units, kernel_regularizer=regularizer, **kwargs)

    def add(self, before, x):
        """Adds a residual branch to its input, or skips it."""
        if self.skip_rate:
            one_draw = (None,) + (1,) * (len(x.shape) - 1)
            x = layers.Dropout(self.skip_rate, one_draw)(x)
        return layers.Add()([before, x])


def _layer_norm(x):
    return layers.LayerNormalization(epsilon=1e-5)(x)


def _inverted_bottleneck(x, filters, strides, settings):
    """MBConv with pre-normalization and squeeze-and-excitation."""
    convolution, before = settings.convolution, x
    if strides > 1:
        before = layers.AveragePooling2D(3, strides, padding="same")(before)
    if strides > 1 or x.shape[-1] != filters:
        before = convolution(filters, 1, use_bias=True)(before)
    x = convolution(4 * filters, 1)(pieces.batch_norm(x))
    x = ops.gelu(pieces.batch_norm(x))
    x = layers.DepthwiseConv2D(
        3,
        strides,
        padding="same",
        use_bias=False,
        depthwise_initializer="he_normal",
        depthwise_regularizer=pieces.regularizer(settings.weight_decay),
    )(x)
    x = ops.gelu(pieces.batch_norm(x))
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    for channels, activation in (
        (filters // 4, "silu"),
        (4 * filters, "sigmoid"),
    ):
        gate = convolution(channels, 1, use_bias=True, activation=activation)(
            gate
        )
    x = convolution(filters, 1, use_bias=True)(layers.Multiply()([x, gate]))
    return settings.add(before, x)


def _attention(x, across, settings):
    """Self-attention within windows or, if `across`, across a grid."""
    before, channels = x, x.shape[-1]
    sizes = tuple(_window_size(x, axis, settings.window) for axis in (1, 2))
    heads = channels // settings.head_size
    x, put_back = partition(_layer_norm(x), sizes, across)
    *_, windows, positions, _ = x.shape
    parts = ops.reshape(
        settings.dense(3 * channels)(x),
        (-1, windows, positions, 3, heads, settings.head_size),
    )
    queries, keys, values = (parts[:, :, :, i] for i in range(3))
    scores = ops.einsum("bwphs,bwqhs->bwhpq", queries, keys)
    scores = RelativePositionBias(sizes)(scores * settings.head_size**-0.5)
    x = ops.einsum("bwhpq,bwqhs->bwphs", ops.softmax(scores), values)
    x = ops.reshape(x, (-1, windows, positions, channels))
    return settings.add(before, put_back(settings.dense(channels)(x)))


def _perceptron(x, settings):
    channels = x.shape[-1]
    hidden = settings.dense(4 * channels, activation="gelu")(_layer_norm(x))
    return settings.add(x, settings.dense(channels)(hidden))


def _window_size(x, axis, window):
    size = min(window, x.shape[axis])
    if x.shape[axis] % size:
        raise ValueError(
            "`window` must divide the height and width of each stage. "
            f"Received: window={window} for a stage of {x.shape[1:3]}"
        )
    return size


def partition(x, sizes, across):
    """Maps images to (batch, windows, positions, channels), and back."""
    _, height, width, channels = x.shape
    if across:
        split = (sizes[0], height // sizes[0], sizes[1], width // sizes[1])
        order = (0, 2, 4, 1, 3, 5)
    else:
        split = (height // sizes[0], sizes[0], width // sizes[1], sizes[1])
        order = (0, 1, 3, 2, 4, 5)
    x = ops.transpose(ops.reshape(x, (-1, *split, channels)), order)
    apart = x.shape[1:]

    def put_back(x):
        x = ops.reshape(x, (-1, *apart))
        x = ops.transpose(x, [order.index(axis) for axis in range(6)])
        return ops.reshape(x, (-1, height, width, channels))

    windows, positions = apart[0] * apart[1], apart[2] * apart[3]
    x = ops.reshape(x, (-1, windows, positions, channels))
    return x, put_back


@keras.saving.register_keras_serializable(package="keras_bimp_study")
class RelativePositionBias(layers.Layer):
    """Adds a learned bias for each relative position to attention scores.

    Args:
        sizes: Height and width of the windows.
    """

    def __init__(self, sizes, **kwargs):
        super().__init__(**kwargs)
        self.sizes = tuple(sizes)
        height, width = self.sizes
        place = np.stack(np.divmod(np.arange(height * width), width))
        down, right = place[:, :, None] - place[:, None]
        self._ways = (down + height - 1) * (2 * width - 1) + right + width - 1

    def build(self, input_shape):
        height, width = self.sizes
        self.biases = self.add_weight(
            shape=(input_shape[2], (2 * height - 1) * (2 * width - 1)),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            name="biases",
        )

    def call(self, scores):
        return scores + ops.take(self.biases, self._ways, axis=1)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "sizes": self.sizes}
