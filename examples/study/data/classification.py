"""What tasks of classifying images have in common."""

import keras
import numpy as np
import tensorflow as tf

from .task import Task


def task(train, validation, test, classes, input_shape, notice=""):
    """The task of telling classes of images.

    Args:
        train: As `Task` has it, as are `validation` and `test`.
        validation: See there.
        test: See there.
        classes: How many there are.
        input_shape: Height, width and channels of an image.
        notice: As `Task` has it.
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
    """The accuracy of a compiled model, in percent."""
    found = model.evaluate(batches, verbose=0, return_dict=True)
    return 100 * found["accuracy"]


def normalization(mean, deviation):
    """A function that brings pixels of 0 to 255 to mean 0, deviation 1.

    Args:
        mean: Of each channel, of values from 0 to 1.
        deviation: Likewise.
    """
    mean, deviation = (
        255 * np.array(each, "float32") for each in (mean, deviation)
    )

    def normalized(images, labels):
        return (tf.cast(images, tf.float32) - mean) / deviation, labels

    return normalized


def check_subset(subset, available):
    """Raises a `ValueError` if more is asked for than there is."""
    if subset is not None and not 0 < subset <= available:
        raise ValueError(
            f"`subset` must be from 1 to {available}: the other training "
            f"examples are for validation. Received: subset={subset}"
        )


def random_seeds(seed):
    """Endless pairs of random numbers, others in every epoch."""
    numbers = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
    return numbers.batch(2)
