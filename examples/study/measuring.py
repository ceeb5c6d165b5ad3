"""Callbacks that measure a run while it trains."""

import importlib
import platform
import statistics
import time

import keras

import keras_bimp


class Speed(keras.callbacks.Callback):
    """Examples per second of each epoch except the first, which compiles.

    Args:
        examples: Examples per epoch.
    """

    def __init__(self, examples):
        super().__init__()
        self._examples, self._rates = examples, []

    def on_epoch_begin(self, epoch, logs=None):
        self._begin = time.perf_counter()

    def on_test_begin(self, logs=None):
        # Validation begins when the training of an epoch ends.
        self._end = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self._rates.append(self._examples / (self._end - self._begin))

    def get_state(self):
        return {"rates": list(self._rates)}

    def set_state(self, state):
        self._rates = list(state["rates"])

    def median(self):
        """Returns the median, or `None` after a single epoch."""
        return statistics.median(self._rates[1:]) if self._rates[1:] else None


class Prunings(keras.callbacks.Callback):
    """Scores a model just before and just after each pruning."""

    def __init__(self, task):
        super().__init__()
        self._task, self._pruner = task, None
        self._before, self._after = [], []

    def get_state(self):
        return {"before": list(self._before), "after": list(self._after)}

    def set_state(self, state):
        self._before = list(state["before"])
        self._after = list(state["after"])

    def around(self, callbacks):
        """Returns the callbacks, with measurements before and after them."""
        for callback in callbacks:
            if hasattr(callback, "prunings") and hasattr(callback, "plan"):
                self._pruner = callback
        if self._pruner is None:
            return [*callbacks, self]
        return [
            self,
            keras.callbacks.LambdaCallback(
                on_epoch_begin=lambda epoch, logs: self._measure(
                    epoch, self._before
                )
            ),
            *callbacks,
            keras.callbacks.LambdaCallback(
                on_epoch_begin=lambda epoch, logs: self._measure(
                    epoch, self._after
                )
            ),
        ]

    def _measure(self, epoch, found):
        pruner = self._pruner
        if any(p.prunes and p.start_epoch == epoch for p in pruner.plan.phases):
            found.append(self._task.score(pruner.model, self._task.test))
            pruner.model.reset_metrics()

    def phases(self):
        if self._pruner is None:
            return []
        plan = self._pruner.plan
        rates = plan.values([p.discount for p in self._pruner.prunings])
        per_epoch = plan.steps_per_epoch
        return [
            {
                "name": phase.name,
                "epochs": phase.epochs,
                "sparsity": phase.sparsity,
                "largest_rate": float(
                    rates[
                        phase.start_epoch * per_epoch : phase.end_epoch
                        * per_epoch
                    ].max()
                ),
            }
            for phase in plan.phases
        ]

    def found(self):
        if self._pruner is None:
            return []
        return [
            {
                "norm_drop": pruning.norm_drop,
                "pruned_fraction": pruning.pruned_fraction,
                "test_before": before,
                "test_after": after,
                "pruning_stability": keras_bimp.metrics.pruning_stability(
                    before, after
                ),
            }
            for pruning, before, after in zip(
                self._pruner.prunings, self._before, self._after, strict=True
            )
        ]


def versions():
    """Returns the versions of the packages that a run uses."""
    backend = keras.backend.backend()
    version = importlib.import_module(backend).__version__
    return {
        "keras_bimp": keras_bimp.__version__,
        "keras": keras.__version__,
        "backend": f"{backend} {version}",
        "python": platform.python_version(),
    }
