"""A network to try, with its data."""

import dataclasses
from typing import Any

import keras
import numpy as np

SAMPLES = 8
CLASSES = 4


@dataclasses.dataclass
class Network:
    """A model and a few training examples.

    Args:
        model: A built `keras.Model`.
        x: Inputs, an array or a structure of arrays.
        y: Targets.
        loss: A loss for `compile`; `"own"` if the class of the model defines
            one, and `None` if the layers add it.
    """

    model: keras.Model
    x: Any
    y: Any = None
    loss: Any = "sparse_categorical_crossentropy"

    def compile(self, model: keras.Model | None = None) -> None:
        """Compiles a model for training."""
        # Untrained detectors have losses in the thousands.
        optimizer = keras.optimizers.SGD(
            0.01, momentum=0.9, global_clipnorm=1.0
        )
        given = {} if self.loss == "own" else {"loss": self.loss}
        (model or self.model).compile(optimizer, **given)


def images(side: int, classes: int = CLASSES) -> tuple:
    """Generates square random images and their classes."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(SAMPLES, side, side, 3)).astype("float32")
    return x, rng.integers(0, classes, SAMPLES)


def tokens(length: int, vocabulary: int) -> np.ndarray:
    """Generates sentences of random words, without padding."""
    rng = np.random.default_rng(0)
    return rng.integers(1, vocabulary, (SAMPLES, length)).astype("int32")
