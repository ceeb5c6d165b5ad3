"""The accuracy that AccALLR measures around a pruning."""

import math
from collections.abc import Iterator

import keras
import numpy as np

from keras_bimp.checks import check_positive

_BATCH_SIZE = 32  # Keras' default for arrays.


class Accuracy:
    """Measures the accuracy of a compiled model in inference mode.

    Args:
        data: A tuple of arrays `(x, y)` or `(x, y, sample_weight)`, or a
            dataset of batches that can be gone through again.
        fraction: Float in (0, 1], how much of the data to use: its first
            batches.
    """

    def __init__(self, data, fraction: float = 1.0):
        if isinstance(data, list | Iterator):
            raise ValueError(
                "`data` must be a tuple of arrays (x, y), or batches that can "
                "be gone through again, as a tf.data.Dataset or a PyDataset. "
                f"Received: data of type {type(data).__name__}"
            )
        if check_positive("data_fraction", fraction) > 1:
            raise ValueError(
                "`data_fraction` must be in (0, 1]. "
                f"Received: data_fraction={fraction}"
            )
        self._arrays = data if isinstance(data, tuple) else (data,)
        self._fraction = fraction

    def check(self, model: keras.Model) -> None:
        """Raises ValueError if the model tells no accuracy of the data."""
        self._steps()
        self._evaluate(model, steps=1)

    def __call__(self, model: keras.Model) -> float:
        """Returns the accuracy of `model`, a float in [0, 1]."""
        return self._evaluate(model, self._steps())

    def _evaluate(self, model, steps):
        x, y, sample_weight, *_ = (*self._arrays, None, None)
        logs = model.evaluate(
            x,
            y,
            sample_weight=sample_weight,
            steps=steps,
            verbose=0,
            return_dict=True,
        )
        model.reset_metrics()  # Those of the epoch begin at nothing.
        names = [name for name in logs if name.endswith(("accuracy", "acc"))]
        if not names:
            raise ValueError(
                "The model must be compiled with an accuracy, "
                "`metrics=['accuracy']`, for retraining='accallr'. "
                f"Received: a model that tells {', '.join(logs)}"
            )
        accuracy = float(logs[min(names, key=len)])
        if not np.isfinite(accuracy):
            raise ValueError(
                f"The accuracy on `data` must be finite. Received: {accuracy}"
            )
        return accuracy

    def _steps(self):
        if self._fraction == 1:
            return None
        try:
            batches = len(keras.tree.flatten(self._arrays[0])[0])
        except TypeError as error:
            raise ValueError(
                "`data_fraction` needs `data` of known length. "
                f"Received: data_fraction={self._fraction}: {error}"
            ) from error
        if len(self._arrays) > 1:
            batches /= _BATCH_SIZE
        return math.ceil(self._fraction * batches)
