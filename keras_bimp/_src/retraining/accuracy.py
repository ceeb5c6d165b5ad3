"""Measure a model's accuracy around a pruning, for AccALLR."""

import keras
import numpy as np

from keras_bimp._src.evaluating import batched
from keras_bimp._src.masking import reset_given_metrics
from keras_bimp._src.retraining.samples import Samples


class Accuracy:
    """Measures the accuracy of a compiled model in inference mode.

    Args:
        samples: The data.
        what: The feature that needs the accuracy, for error messages.
        metric: Name of the metric. By default the shortest name that ends in
            "accuracy" or "acc".
    """

    def __init__(
        self,
        samples: Samples,
        what: str = "retraining='accallr'",
        metric: str | None = None,
    ):
        self._samples = samples
        self._what = what
        self._metric = metric

    def check(self, model: keras.Model) -> None:
        """Raise ValueError if the model reports no accuracy on the data."""
        self._samples.size()
        # Not a single sample, because each of several replicas needs one.
        self._evaluate(model, 32 if self._samples.arrays else 1)

    def __call__(self, model: keras.Model) -> float:
        """Return the accuracy of `model`, a float in [0, 1]."""
        return self._evaluate(model, self._samples.size())

    def _evaluate(self, model, size):
        """Evaluate on `size` samples of arrays, or batches of a dataset."""
        if self._samples.arrays:
            part = self._samples.part(size)
            given = dict(zip(("x", "y", "sample_weight"), part, strict=False))
        else:
            given = {"x": self._samples.data, "steps": size}
        reset_given_metrics(model)  # Keras does not, before the first batch.
        logs = model.evaluate(
            **batched(model, given), verbose=0, return_dict=True
        )
        model.reset_metrics()  # The epoch's metrics must start from zero.
        names = [name for name in logs if name.endswith(("accuracy", "acc"))]
        if self._metric is not None:
            names = [self._metric] if self._metric in logs else []
        if not names:
            raise ValueError(
                f"The model must be compiled with {self._wanted()}, for "
                f"{self._what}. "
                f"Received: a model that reports {', '.join(logs)}"
            )
        accuracy = float(logs[min(names, key=len)])
        if not np.isfinite(accuracy):
            raise ValueError(
                f"The accuracy on `data` must be finite. Received: {accuracy}"
            )
        return accuracy

    def _wanted(self):
        if self._metric is None:
            return "an accuracy, `metrics=['accuracy']`"
        return f"a metric '{self._metric}'"
