"""Common parts of image classification tasks."""

import keras
import numpy as np
import tensorflow as tf

from .task import Task


def task(train, validation, test, classes, input_shape, notice=""):
    """Returns an image classification task.

    Args:
        train: As in `Task`.
        validation: As in `Task`.
        test: As in `Task`.
        classes: Number of classes.
        input_shape: Height, width and channels of an image.
        notice: As in `Task`.
    """
    return Task(
        train=train,
        validation=validation,
        test=test,
        network={
            "classes": classes,
            "input_shape": tuple(input_shape),
        },
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=lambda: ["accuracy"],
        measure="accuracy",
        score=accuracy,
        notice=notice,
    )


def accuracy(model, batches):
    """Returns the accuracy of a compiled model, in percent."""
    found = model.evaluate(batches, verbose=0, return_dict=True)
    return 100 * found["accuracy"]


def normalization(mean, deviation):
    """Returns a function that normalizes pixels from 0 to 255.

    Args:
        mean: Mean of each channel, for values from 0 to 1.
        deviation: Standard deviation of each channel.
    """
    mean, deviation = (
        255 * np.array(each, "float32") for each in (mean, deviation)
    )

    def normalized(images, labels):
        return (tf.cast(images, tf.float32) - mean) / deviation, labels

    return normalized


def check_subset(subset, available):
    """Raises a `ValueError` if a subset is larger than the data set."""
    if subset is not None and not 0 < subset <= available:
        raise ValueError(
            f"`subset` must be from 1 to {available}: the other training "
            f"examples are for validation. Received: subset={subset}"
        )


def random_seeds(seed):
    """Returns infinite pairs of random numbers, different in each epoch."""
    numbers = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
    return numbers.batch(2)
