"""The models that `sparse_serving.py` measures."""

import dataclasses
import importlib
from collections.abc import Callable

import keras
import networks
import numpy as np
from keras import layers


@dataclasses.dataclass(frozen=True)
class Part:
    """A model and the inputs that it is measured with.

    Args:
        build: Callable without arguments that returns the model.
        batch_sizes: Batch sizes to time.
        sizes: Sizes of the other axes of the inputs, if the model leaves them
            open.
        counts: Batch sizes for which outputs are compared.
        more_sizes: Other `sizes` for which they are compared.
        examples: Callable without arguments that returns inputs; `None` for
            generated numbers.
    """

    build: Callable
    batch_sizes: tuple[int, ...] = (1, 32)
    sizes: tuple[int, ...] = ()
    counts: tuple[int, ...] = (1, 2, 7, 8, 9, 64)
    more_sizes: tuple[tuple[int, ...], ...] = ()
    examples: Callable = lambda: None


def mlp():
    """Builds four dense layers of 2,048 units."""
    hidden = [layers.Dense(2048, activation="relu") for _ in range(4)]
    return keras.Sequential([keras.Input((2048,)), *hidden])


def transformer(width=512, inner=2048, heads=8, blocks=4):
    """Builds an encoder for sequences of any length."""
    x = inputs = keras.Input((None, width))
    for _ in range(blocks):
        y = layers.MultiHeadAttention(heads, width // heads)(x, x)
        x = layers.LayerNormalization()(layers.Add()([x, y]))
        y = layers.Dense(inner, activation="gelu")(x)
        y = layers.Dense(width)(y)
        x = layers.LayerNormalization()(layers.Add()([x, y]))
    return keras.Model(inputs, x)


def bert(num_layers, width, num_heads):
    """Builds KerasHub's BERT."""
    hub = importlib.import_module("keras_hub")
    return hub.models.BertBackbone(
        vocabulary_size=30522,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_dim=width,
        intermediate_dim=4 * width,
    )


def tokens():
    shape = 4, 128
    ids = np.random.default_rng(0).integers(0, 30522, shape)
    return {
        "token_ids": ids,
        "padding_mask": np.ones(shape, "int32"),
        "segment_ids": np.zeros(shape, "int32"),
    }


def digits():
    """Builds the network of `examples/digits.py`."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )


PARTS = {
    "mlp": Part(mlp, (1, 4, 16, 64, 256), counts=(1, 2, 7, 8, 9, 100, 1000)),
    "transformer": Part(
        transformer,
        (1, 8),
        (64, 512),
        more_sizes=((1, 512), (7, 512), (100, 512)),
        examples=lambda: np.random.default_rng(0).normal(size=(4, 64, 512)),
    ),
    "bert_tiny": Part(lambda: bert(2, 128, 2), (1, 8), (128,), examples=tokens),
    "bert_base": Part(
        lambda: bert(12, 768, 12), (1, 8), (128,), (1, 3), examples=tokens
    ),
    "resnet50": Part(
        lambda: keras.applications.ResNet50(weights=None), (1, 8), counts=(1, 3)
    ),
    "resnet56": Part(networks.resnet56),
    "digits": Part(digits),
}
