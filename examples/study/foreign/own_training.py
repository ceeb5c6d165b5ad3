"""Models of keras.io tutorials with a custom train step."""

import keras
import tensorflow as tf
from keras import layers
from keras import ops

from .own_layers import Sampling


def _encoder():
    inputs = keras.Input((28, 28, 1))
    h = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(
        inputs
    )
    h = layers.Dense(16, activation="relu")(layers.Flatten()(h))
    mean, variance = layers.Dense(2)(h), layers.Dense(2)(h)
    return keras.Model(inputs, [mean, variance, Sampling()([mean, variance])])


def _decoder(width):
    inputs = keras.Input((width,))
    h = layers.Dense(14 * 14 * 16, activation="relu")(inputs)
    h = layers.Reshape((14, 14, 16))(h)
    h = layers.Conv2DTranspose(
        16, 3, strides=2, padding="same", activation="relu"
    )(h)
    outputs = layers.Conv2D(1, 3, padding="same", activation="sigmoid")(h)
    return keras.Model(inputs, outputs)


class VAE(keras.Model):
    """A variational autoencoder with its loss in `train_step`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.encoder, self.decoder = _encoder(), _decoder(2)

    def call(self, inputs):
        return self.decoder(self.encoder(inputs)[2])

    def train_step(self, data):
        with tf.GradientTape() as tape:
            mean, variance, code = self.encoder(data)
            loss = ops.mean(ops.square(data - self.decoder(code)))
            divergence = 1 + variance - ops.square(mean) - ops.exp(variance)
            loss -= 0.5 * ops.mean(divergence)
        weights = self.trainable_weights
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


class GAN(keras.Model):
    """A generator and a discriminator, each with an optimizer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = _decoder(8)
        self.discriminator = keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.Conv2D(16, 3, strides=2, padding="same"),
                layers.LeakyReLU(0.2),
                layers.GlobalMaxPooling2D(),
                layers.Dense(1),
            ]
        )
        self._loss = keras.losses.BinaryCrossentropy(from_logits=True)

    def call(self, inputs):
        noise = keras.random.normal((ops.shape(inputs)[0], 8))
        return self.discriminator(self.generator(noise))

    def compile(self, optimizer, **kwargs):
        super().compile(**kwargs)
        self.optimizers = [
            optimizer,
            type(optimizer).from_config(optimizer.get_config()),
        ]

    def train_step(self, data):
        noise = keras.random.normal((ops.shape(data)[0], 8))
        with tf.GradientTape(persistent=True) as tape:
            made = self.discriminator(self.generator(noise))
            real = self.discriminator(data)
            yes, no = ops.ones_like(made), ops.zeros_like(made)
            losses = [
                self._loss(yes, made),
                self._loss(yes, real) + self._loss(no, made),
            ]
        parts = [self.generator, self.discriminator]
        for part, loss, optimizer in zip(
            parts, losses, self.optimizers, strict=True
        ):
            weights = part.trainable_weights
            optimizer.apply(tape.gradient(loss, weights), weights)
        return {"generator_loss": losses[0], "discriminator_loss": losses[1]}
