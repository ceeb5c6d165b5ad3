"""Random Functional models, with random filters pruned."""

import keras
import numpy as np
from keras import layers

import keras_bimp
from keras_bimp._src.shrinking.coupling import filter_groups

ACTIVATIONS = (None, "relu", "gelu", "sigmoid", "tanh", "softmax")


class RandomGraph:
    """Builds a random model layer by layer."""

    def __init__(self, seed, steps=9):
        self.rng = np.random.default_rng(seed)
        keras.utils.set_random_seed(seed)
        size = self.pick(5, 6, 8)
        channels = self.pick(1, 2, 3, 4)
        self.inputs = keras.Input((size, size, channels))
        self.images = [self.conv(self.inputs)]
        for _ in range(steps):
            step = self.pick(*self.steps())
            x = self.pick(*self.images[-3:])
            if x.shape[1] > 12:
                step = self.pool
            self.images.append(step(x))
        self.model = keras.Model(self.inputs, self.heads())

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def steps(self):
        return (
            *[self.conv] * 4,
            *[self.batch_norm] * 3,
            *[self.activation] * 2,
            *[self.merge] * 4,
            *[self.residual] * 3,
            self.transposed,
            self.depthwise,
            self.separable,
            self.normalized,
            self.pool,
            self.padded,
            self.up,
            self.dropout,
            self.gate,
            self.nested,
            self.twice,
            self.operations,
            self.einsum,
            self.attention,
        )

    def conv(self, x, filters=None, padding=None):
        filters = filters or self.pick(2, 4, 6, 8)
        groups = [
            g
            for g in (1, 1, 2, 3, x.shape[-1])
            if not (x.shape[-1] % g or filters % g)
        ]
        return layers.Conv2D(
            filters,
            self.pick(1, 2, 3),
            strides=1,
            padding=padding or self.pick("same", "valid")
            if x.shape[1] > 3
            else "same",
            groups=self.pick(*groups),
            activation=self.pick(*ACTIVATIONS[:-1]),
            use_bias=self.pick(True, False),
        )(x)

    def transposed(self, x):
        return layers.Conv2DTranspose(
            self.pick(2, 4),
            self.pick(1, 2, 3),
            strides=self.pick(1, 2),
            padding=self.pick("same", "valid"),
            use_bias=self.pick(True, False),
        )(x)

    def depthwise(self, x):
        return layers.DepthwiseConv2D(
            self.pick(1, 3),
            padding="same",
            depth_multiplier=self.pick(1, 1, 2),
            activation=self.pick(*ACTIVATIONS[:-1]),
            use_bias=self.pick(True, False),
        )(x)

    def separable(self, x):
        return layers.SeparableConv2D(
            self.pick(4, 6),
            self.pick(1, 3),
            padding="same" if x.shape[1] < 4 else self.pick("same", "valid"),
            depth_multiplier=self.pick(1, 2),
            use_bias=self.pick(True, False),
        )(x)

    def batch_norm(self, x):
        x = layers.BatchNormalization(scale=self.pick(True, False))(x)
        return layers.ReLU()(x) if self.pick(True, False) else x

    def normalized(self, x):
        groups = [g for g in (1, 2, 4, -1) if x.shape[-1] % g == 0]
        return self.pick(
            layers.LayerNormalization(),
            layers.GroupNormalization(self.pick(*groups)),
            layers.UnitNormalization(),
        )(x)

    def activation(self, x):
        return self.pick(
            layers.Activation(self.pick(*ACTIVATIONS[1:])),
            layers.ReLU(max_value=6.0, negative_slope=0.1),
            layers.LeakyReLU(),
            layers.ELU(),
            layers.PReLU(shared_axes=self.pick(None, [1, 2])),
            layers.Softmax(),
        )(x)

    def pool(self, x):
        if x.shape[1] < 4:
            return layers.AveragePooling2D(2, 1, padding="same")(x)
        kind = self.pick(layers.MaxPooling2D, layers.AveragePooling2D)
        return kind(self.pick(2, 3), padding=self.pick("same", "valid"))(x)

    def padded(self, x):
        return self.pick(
            layers.ZeroPadding2D(1),
            layers.Cropping2D(((1, 0), (0, 1)))
            if x.shape[1] > 3
            else layers.Identity(),
        )(x)

    def up(self, x):
        kind = self.pick("nearest", "bilinear")
        return layers.UpSampling2D(2, interpolation=kind)(x)

    def dropout(self, x):
        return self.pick(layers.Dropout, layers.SpatialDropout2D)(0.5)(x)

    def partner(self, x):
        """Returns another tensor of the same shape."""
        same = [y for y in self.images if y is not x and y.shape == x.shape]
        if same and self.pick(True, False):
            return self.pick(*same)
        return self.conv(x, x.shape[-1], "same")

    def merge(self, x):
        y = self.partner(x)
        kind = self.pick(
            layers.Add,
            layers.Add,
            layers.Multiply,
            layers.Concatenate,
            layers.Concatenate,
            layers.Maximum,
            layers.Average,
            layers.Subtract,
        )
        return kind()([x, y])

    def residual(self, x):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        y = layers.BatchNormalization()(self.conv(y, x.shape[-1], "same"))
        return layers.Add()([x, y])

    def gate(self, x):
        channels = x.shape[-1]
        y = layers.GlobalAveragePooling2D()(x)
        y = layers.Reshape((1, 1, channels))(y)
        y = layers.Conv2D(4, 1, activation="relu")(y)
        y = layers.Conv2D(channels, 1, activation="sigmoid")(y)
        return layers.Multiply()([x, y])

    def nested(self, x):
        inputs = keras.Input(x.shape[1:])
        y = self.conv(inputs, 6, "same")
        y = layers.BatchNormalization()(y)
        if self.pick(True, False):
            y = layers.Concatenate()([inputs, y])
        inner = keras.Model(inputs, self.conv(y, None, "same"))
        if self.pick(True, False):
            inner = keras.Sequential([keras.Input(x.shape[1:]), inner])
        y = inner(x)
        if self.pick(True, False):
            y = layers.Add()([y, inner(self.partner(x))])
        return y

    def twice(self, x):
        conv = layers.Conv2D(x.shape[-1], 3, padding=self.pick("same"))
        norm = layers.BatchNormalization()
        return norm(conv(layers.ReLU()(norm(conv(x)))))

    def operations(self, x):
        return self.pick(
            lambda x: keras.ops.relu(x * 2.0 + 1.0),
            lambda x: keras.ops.pad(x, [(0, 0), (0, 0), (0, 0), (1, 2)]),
            lambda x: keras.ops.pad(x, [(0, 0), (1, 1), (0, 0), (0, 1)]),
            lambda x: x * keras.ops.sigmoid(x),
            lambda x: x - self.partner(x),
            lambda x: keras.ops.concatenate([x, self.partner(x)], axis=-1),
            lambda x: x + keras.ops.mean(x, axis=(1, 2), keepdims=True),
            lambda x: keras.ops.transpose(x, (0, 2, 1, 3)),
            lambda x: x[..., :1] * x,
        )(x)

    def einsum(self, x):
        _, height, width, channels = x.shape
        y = layers.Reshape((height * width, channels))(x)
        y = layers.EinsumDense(
            "abc,cd->abd", (height * width, 6), bias_axes=self.pick(None, "d")
        )(y)
        y = layers.Conv1D(6, 3, padding=self.pick("same", "causal"))(y)
        return layers.Reshape((height, width, 6))(y)

    def attention(self, x):
        _, height, width, channels = x.shape
        y = layers.Reshape((height * width, channels))(x)
        y = layers.MultiHeadAttention(3, 2, use_bias=self.pick(True, False))(
            y, y
        )
        return layers.Reshape((height, width, channels))(y)

    def heads(self):
        last = self.images[-1]
        x = self.pick(
            layers.Flatten(),
            layers.GlobalAveragePooling2D(),
            layers.GlobalMaxPooling2D(),
        )(last)
        if self.pick(True, False):
            x = layers.Dense(self.pick(8, 16), activation="relu")(x)
        if self.pick(False, False, True):
            x = layers.Dense(16)(x)
            x = layers.Reshape((2, 2, 4))(x)
            x = layers.Flatten()(layers.Conv2D(4, 1)(x))
        outputs = [layers.Dense(3)(x)]
        if self.pick(False, False, True):
            outputs.append(self.images[-2])
        return outputs


def wrapped_graph(seed):
    """Builds a random wrapped model."""
    model, _ = _random_graph(seed)
    return keras_bimp.wrap(model)


def pruned_graph(seed):
    """Builds a random model with some filters and units all zeros."""
    model, rng = _random_graph(seed)
    kernels = [
        (layer, variable)
        for layer in model._flatten_layers()
        for variable in layer._trainable_variables
        if variable.name.endswith("kernel")
    ]
    together = filter_groups(model, [kernel for _, kernel in kernels])
    share = rng.choice([0.3, 0.6, 0.9])
    gone = rng.random(max(g.max() for g in together) + 1) < share
    independent = rng.choice([0.0, 0.0, 0.3])
    for (layer, kernel), groups in zip(kernels, together, strict=True):
        array = np.array(kernel)
        matrix = array
        if isinstance(layer, layers.Conv2DTranspose):
            matrix = np.swapaxes(array, -1, -2)
        if kernel.name == "depthwise_kernel" or isinstance(
            layer, layers.DepthwiseConv2D
        ):
            matrix = array.reshape(*array.shape[:-2], -1)
        if kernel.path.split("/")[-2] in ("value", "attention_output"):
            heads = array if len(array) == 3 else np.swapaxes(array, 0, 1)
            heads[rng.random(3) < share / 2] = 0.0
            kernel.assign(array)
            continue
        width = matrix.shape[-1]
        zero = gone[groups[:width]] | (rng.random(width) < independent)
        if len(array.shape) == 2 and rng.random() < 0.7:
            zero[:] = False
        matrix[..., zero] = 0.0
        kernel.assign(array)
    return model


def _random_graph(seed):
    graph = RandomGraph(seed)
    model, rng = graph.model, graph.rng
    for variable in model.weights:
        shape = variable.shape
        if variable.name == "moving_variance":
            variable.assign(rng.uniform(0.5, 2.0, shape))
        elif variable.name in ("bias", "beta", "gamma", "moving_mean", "alpha"):
            variable.assign(rng.normal(size=shape))
    return model, rng
