"""Custom layers of keras.io tutorials."""

import keras
from keras import layers
from keras import ops


@keras.saving.register_keras_serializable(package="foreign")
class TransformerBlock(layers.Layer):
    """Attention and two dense layers, with residuals and normalization."""

    def __init__(self, width, heads, inner, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self._given = (width, heads, inner, rate)
        self.attention = layers.MultiHeadAttention(heads, width // heads)
        self.hidden = layers.Dense(inner, activation="relu")
        self.out = layers.Dense(width)
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.dropouts = [layers.Dropout(rate) for _ in range(2)]

    def build(self, input_shape):
        self.attention.build(input_shape, input_shape)
        self.hidden.build(input_shape)
        self.out.build((*input_shape[:-1], self.hidden.units))
        for norm in self.norms:
            norm.build(input_shape)

    def call(self, x, training=None):
        h = self.attention(x, x)
        x = self.norms[0](x + self.dropouts[0](h, training=training))
        h = self.out(self.hidden(x))
        return self.norms[1](x + self.dropouts[1](h, training=training))

    def get_config(self):
        given = zip(
            ("width", "heads", "inner", "rate"), self._given, strict=True
        )
        return {**super().get_config(), **dict(given)}


@keras.saving.register_keras_serializable(package="foreign")
class PositionalEmbedding(layers.Layer):
    """Embeds words and their positions."""

    def __init__(self, length, vocabulary, width, **kwargs):
        super().__init__(**kwargs)
        self._given = (length, vocabulary, width)
        self.words = layers.Embedding(vocabulary, width)
        self.places = layers.Embedding(length, width)

    def build(self, input_shape):
        self.words.build(input_shape)
        self.places.build(input_shape[-1:])

    def call(self, x):
        return self.words(x) + self.places(ops.arange(0, ops.shape(x)[-1]))

    def get_config(self):
        given = zip(("length", "vocabulary", "width"), self._given, strict=True)
        return {**super().get_config(), **dict(given)}


@keras.saving.register_keras_serializable(package="foreign")
class Patches(layers.Layer):
    """Splits an image into square patches."""

    def __init__(self, side, **kwargs):
        super().__init__(**kwargs)
        self.side = side

    def call(self, images):
        patches = ops.image.extract_patches(images, self.side)
        _, rows, columns, size = patches.shape
        return ops.reshape(patches, (-1, rows * columns, size))

    def get_config(self):
        return {**super().get_config(), "side": self.side}


@keras.saving.register_keras_serializable(package="foreign")
class Sampling(layers.Layer):
    """Samples from a normal distribution."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, inputs):
        mean, log_variance = inputs
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_variance) * noise
