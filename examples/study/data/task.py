"""What is to be learned: data, loss and what counts as good."""

import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Task:
    """Data in batches, and how a network is trained and judged on them.

    Attributes:
        train: Batches of one epoch, shuffled anew in each, of known length.
        validation: Batches held out of the training data, to choose settings.
        test: Batches that are for the figures of a table alone.
        network: Keywords that a network of `networks` gets of the data, such
            as `classes` and `input_shape`.
        loss: What is minimized.
        metrics: Makes the metrics that training shows.
        measure: Name of what `score` returns: "accuracy", "mIoU" or "BLEU".
        score: Function `(model, batches) -> float` in percent: how good a
            trained model is.
        notice: What to say wherever figures are shown, if these data are not
            those that everyone has.
    """

    train: tf.data.Dataset
    validation: tf.data.Dataset
    test: tf.data.Dataset
    network: dict
    loss: keras.losses.Loss
    metrics: Callable[[], list]
    measure: str
    score: Callable[[keras.Model, tf.data.Dataset], float]
    notice: str = ""
