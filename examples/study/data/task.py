"""Tasks: data, loss and score."""

import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Task:
    """Data in batches, and how to train and evaluate a network on them.

    Attributes:
        train: Batches of one epoch, reshuffled in each, of known length.
        validation: Batches held out of the training data, to choose settings.
        test: Batches used only for the figures of a table.
        network: Keyword arguments of a network that depend on the data, such
            as `classes` and `input_shape`.
        loss: The loss to minimize.
        metrics: Callable that creates the metrics for training.
        measure: Name of the score: "accuracy", "mIoU" or "BLEU".
        score: Function `(model, batches) -> float`, the score of a trained
            model in percent.
        notice: A remark to show with any figures if these data are not the
            standard ones.
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
