"""The accuracy that AccALLR measures around a pruning."""

import math
import operator
from collections.abc import Iterator

import keras
import numpy as np

from keras_bimp.checks import check_positive


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
        if isinstance(data, tuple) and len(data) not in (2, 3):
            raise ValueError(
                "`data` must be (x, y) or (x, y, sample_weight) if it is a "
                f"tuple. Received: a tuple of {len(data)}"
            )
        if check_positive("data_fraction", fraction) > 1:
            raise ValueError(
                "`data_fraction` must be in (0, 1]. "
                f"Received: data_fraction={fraction}"
            )
        self._data = data
        self._fraction = fraction

    def check(self, model: keras.Model) -> None:
        """Raises ValueError if the model tells no accuracy of the data."""
        self._size()
        self._evaluate(model, 1)

    def __call__(self, model: keras.Model) -> float:
        """Returns the accuracy of `model`, a float in [0, 1]."""
        return self._evaluate(model, self._size())

    def _evaluate(self, model, size):
        """Evaluates on as many samples of arrays, or batches of a dataset."""
        if isinstance(self._data, tuple):
            first = operator.itemgetter(slice(size))
            part = keras.tree.map_structure(first, self._data)
            given = dict(zip(("x", "y", "sample_weight"), part, strict=False))
        else:
            given = {"x": self._data, "steps": size}
        logs = model.evaluate(**given, verbose=0, return_dict=True)
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

    def _size(self):
        if self._fraction == 1:
            return None
        counted = self._data
        if isinstance(counted, tuple):
            counted = keras.tree.flatten(counted)[0]
        try:
            return math.ceil(self._fraction * len(counted))
        except TypeError as error:
            raise ValueError(
                "`data_fraction` needs `data` of known length. "
                f"Received: data_fraction={self._fraction}: {error}"
            ) from error
