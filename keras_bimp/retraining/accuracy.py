"""The accuracy that AccALLR measures around a pruning."""

import collections.abc
import math

import keras

from keras_bimp.checks import check_positive

_BATCH_SIZE = 32  # Keras' default for arrays.


class Accuracy:
    """Measures the accuracy of a compiled model in inference mode.

    Args:
        data: What `model.evaluate` takes: a tuple of arrays `(x, y)` or `(x,
            y, sample_weight)`, or batches that can be gone through again.
        fraction: Float in (0, 1], how much of the data to use: its first
            batches.
    """

    def __init__(self, data, fraction: float = 1.0):
        if isinstance(data, collections.abc.Iterator):
            raise ValueError(
                "`data` must be something that can be gone through again: "
                "arrays, a dataset, a PyDataset. "
                f"Received: data={data!r}, an iterator"
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
        for name, value in logs.items():
            if "acc" in name:
                return float(value)
        raise ValueError(
            "The model must be compiled with an accuracy, "
            "`metrics=['accuracy']`, for retraining='accallr'. "
            f"Received: a model that tells {', '.join(logs)}"
        )

    def _steps(self):
        if self._fraction == 1:
            return None
        try:
            if len(self._arrays) > 1:
                batches = math.ceil(
                    len(keras.tree.flatten(self._arrays[0])[0]) / 32
                )
            else:
                batches = len(self._arrays[0])
        except TypeError as error:
            raise ValueError(
                "`data_fraction` needs `data` of known length. "
                f"Received: data_fraction={self._fraction}: {error}"
            ) from error
        return math.ceil(self._fraction * batches)
