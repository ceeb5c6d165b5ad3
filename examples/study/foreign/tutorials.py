"""Small versions of the models in keras.io tutorials."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras import ops

from .network import CLASSES
from .network import SAMPLES
from .network import Network
from .network import images
from .network import tokens
from .own_layers import Patches
from .own_layers import PositionalEmbedding
from .own_layers import TransformerBlock
from .own_training import GAN
from .own_training import VAE

_WORDS = [
    "good",
    "bad",
    "film",
    "plot",
    "actor",
    "scene",
    "dull",
    "great",
    "slow",
    "fun",
]
_LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _grey(side=28):
    x, y = images(side)
    return x[..., :1], y


def mnist_convnet():
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    return Network(model, *_grey())


def text_from_scratch():
    """Builds a sentiment classifier of strings, with its vocabulary inside."""
    rng = np.random.default_rng(0)
    x = np.array([[" ".join(rng.choice(_WORDS, 12))] for _ in range(SAMPLES)])
    vectorize = layers.TextVectorization(output_sequence_length=12)
    vectorize.adapt(x)
    inputs = keras.Input((1,), dtype="string")
    h = layers.Embedding(vectorize.vocabulary_size(), 16)(vectorize(inputs))
    h = layers.Dropout(0.5)(h)
    h = layers.Conv1D(32, 3, strides=2, padding="valid", activation="relu")(h)
    h = layers.GlobalMaxPooling1D()(h)
    h = layers.Dense(32, activation="relu")(h)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(h))
    y = rng.integers(0, 2, SAMPLES)
    return Network(model, tf.constant(x), y, "binary_crossentropy")


def text_transformer():
    """Builds a transformer block from the tutorial's custom layers."""
    inputs = keras.Input((16,), dtype="int32")
    h = PositionalEmbedding(16, 64, 32)(inputs)
    h = TransformerBlock(32, 2, 64)(h)
    h = layers.GlobalAveragePooling1D()(h)
    h = layers.Dense(20, activation="relu")(layers.Dropout(0.1)(h))
    model = keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(h))
    return Network(model, tokens(16, 64), images(2)[1])


def timeseries_lstm():
    inputs = keras.Input((24, 7))
    outputs = layers.Dense(1)(layers.LSTM(32)(inputs))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, 24, 7)).astype("float32")
    y = x.mean((1, 2))[:, None]
    return Network(keras.Model(inputs, outputs), x, y, "mse")


def autoencoder():
    inputs = keras.Input((28, 28, 1))
    h = layers.Conv2D(32, 3, activation="relu", padding="same")(inputs)
    h = layers.MaxPooling2D(2, padding="same")(h)
    h = layers.Conv2D(32, 3, activation="relu", padding="same")(h)
    h = layers.MaxPooling2D(2, padding="same")(h)
    for _ in range(2):
        h = layers.Conv2DTranspose(
            32, 3, strides=2, activation="relu", padding="same"
        )(h)
    outputs = layers.Conv2D(1, 3, activation="sigmoid", padding="same")(h)
    x, _ = _grey()
    return Network(keras.Model(inputs, outputs), x, x, "binary_crossentropy")


def vae():
    """Builds a model with a custom `train_step`."""
    x, _ = _grey()
    model = VAE()
    model(x[:1])
    return Network(model, x, None, None)


def siamese():
    """Builds a network that compares the embeddings of two images."""
    image = keras.Input((28, 28, 1))
    h = layers.BatchNormalization()(image)
    for filters in (4, 16):
        h = layers.Conv2D(filters, 5, activation="tanh")(h)
        h = layers.AveragePooling2D(2)(h)
    h = layers.BatchNormalization()(layers.Flatten()(h))
    embedding = keras.Model(image, layers.Dense(10, activation="tanh")(h))
    one, other = keras.Input((28, 28, 1)), keras.Input((28, 28, 1))
    difference = ops.square(embedding(one) - embedding(other))
    distance = ops.sqrt(ops.sum(difference, -1, keepdims=True) + 1e-7)
    h = layers.BatchNormalization()(distance)
    outputs = layers.Dense(1, activation="sigmoid")(h)
    x, y = _grey()
    return Network(
        keras.Model([one, other], outputs),
        [x, x[::-1].copy()],
        y % 2,
        "binary_crossentropy",
    )


def unet():
    """Builds a segmentation network of separable residual convolutions."""
    inputs = keras.Input((32, 32, 3))
    h = layers.Conv2D(16, 3, strides=2, padding="same")(inputs)
    before = h = layers.ReLU()(layers.BatchNormalization()(h))
    for filters in (24, 32):
        for _ in range(2):
            h = layers.Activation("relu")(h)
            h = layers.SeparableConv2D(filters, 3, padding="same")(h)
            h = layers.BatchNormalization()(h)
        h = layers.MaxPooling2D(3, strides=2, padding="same")(h)
        residual = layers.Conv2D(filters, 1, strides=2, padding="same")(before)
        before = h = layers.add([h, residual])
    for filters in (32, 24, 16):
        for _ in range(2):
            h = layers.Activation("relu")(h)
            h = layers.Conv2DTranspose(filters, 3, padding="same")(h)
            h = layers.BatchNormalization()(h)
        h = layers.UpSampling2D(2)(h)
        residual = layers.Conv2D(filters, 1, padding="same")(
            layers.UpSampling2D(2)(before)
        )
        before = h = layers.add([h, residual])
    outputs = layers.Conv2D(CLASSES, 3, activation="softmax", padding="same")(h)
    x, _ = images(32)
    y = np.random.default_rng(1).integers(0, CLASSES, (SAMPLES, 32, 32, 1))
    return Network(keras.Model(inputs, outputs), x, y)


def gan():
    """Builds two networks, each with an optimizer."""
    x, _ = _grey()
    model = GAN()
    model(x[:1])
    return Network(model, x, None, None)


def vision_transformer():
    inputs = keras.Input((32, 32, 3))
    h = Patches(8)(inputs)
    h = layers.Dense(32)(h)
    for _ in range(2):
        h = TransformerBlock(32, 2, 64)(h)
    h = layers.LayerNormalization(epsilon=1e-6)(h)
    h = layers.Dropout(0.5)(layers.Flatten()(h))
    h = layers.Dense(64, activation="gelu")(h)
    return Network(
        keras.Model(inputs, layers.Dense(CLASSES)(h)), *images(32), _LOGITS
    )


def sequence_to_sequence():
    """Builds a character-level encoder-decoder."""
    letters, width = 20, 32
    encoder = keras.Input((None, letters))
    _, *states = layers.LSTM(width, return_state=True)(encoder)
    decoder = keras.Input((None, letters))
    h, *_ = layers.LSTM(width, return_sequences=True, return_state=True)(
        decoder, initial_state=states
    )
    outputs = layers.Dense(letters, activation="softmax")(h)
    ids = tokens(9, letters)
    x = np.eye(letters, dtype="float32")[ids]
    return Network(
        keras.Model([encoder, decoder], outputs),
        [x, x[:, ::-1].copy()],
        ids[:, ::-1].copy(),
    )


def structured_data():
    """Builds a classifier with a preprocessing layer per table column."""
    rng = np.random.default_rng(0)
    x = {
        "age": rng.uniform(20, 80, (SAMPLES, 1)).astype("float32"),
        "sex": rng.integers(0, 2, (SAMPLES, 1)),
        "thal": tf.constant(rng.choice(["fixed", "normal"], (SAMPLES, 1))),
    }
    inputs = {
        "age": keras.Input((1,), name="age"),
        "sex": keras.Input((1,), name="sex", dtype="int64"),
        "thal": keras.Input((1,), name="thal", dtype="string"),
    }
    prepare = {
        "age": layers.Normalization(),
        "sex": layers.IntegerLookup(output_mode="multi_hot"),
        "thal": layers.StringLookup(output_mode="multi_hot"),
    }
    for name, layer in prepare.items():
        layer.adapt(x[name])
    h = layers.concatenate(
        [layer(inputs[name]) for name, layer in prepare.items()]
    )
    h = layers.Dropout(0.5)(layers.Dense(32, activation="relu")(h))
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(h))
    return Network(model, x, rng.integers(0, 2, SAMPLES), "binary_crossentropy")


NETWORKS = {
    "MNIST convnet": mnist_convnet,
    "Text classification from scratch": text_from_scratch,
    "Text classification with a transformer": text_transformer,
    "Timeseries forecasting, LSTM": timeseries_lstm,
    "Convolutional autoencoder": autoencoder,
    "Variational autoencoder": vae,
    "Siamese network": siamese,
    "U-Net segmentation": unet,
    "GAN": gan,
    "Vision transformer": vision_transformer,
    "Sequence to sequence, LSTM": sequence_to_sequence,
    "Structured data": structured_data,
}
