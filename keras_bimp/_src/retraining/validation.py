"""Validation metrics just before and after a pruning."""

import math

import keras

from keras_bimp._src.evaluating import evaluate
from keras_bimp._src.evaluating import scalars


class Validation:
    """Validates around prunings, if `fit` has validation data.

    Args:
        given: The arguments of `evaluate` for validation, or `None`.
    """

    def __init__(self, given: dict | None):
        self._given = given
        self._known = {}

    def remember(self, model: keras.Model, logs: dict) -> None:
        """Take the metrics of an epoch from its logs."""
        # Without those that other callbacks added.
        own = {f"val_{name}" for name in model.get_metrics_result()}
        self._known = {
            name: value for name, value in scalars(logs).items() if name in own
        }

    def forget(self) -> None:
        """Discard known metrics, because the weights change."""
        self._known = {}

    def __call__(self, model: keras.Model) -> dict[str, float]:
        """Return the current metrics by log name, such as `val_loss`."""
        if self._given is None:
            return {}
        if not self._known:
            found = evaluate(model, self._given)
            self._known = {f"val_{name}": found[name] for name in found}
        return dict(self._known)


def around_pruning(before: dict, after: dict) -> dict[str, float]:
    """Return the logs of the metrics around the last pruning."""
    return {
        **{f"{name}_before_pruning": v for name, v in before.items()},
        **{f"{name}_after_pruning": v for name, v in after.items()},
    }


def no_pruning_yet(known: dict) -> dict[str, float]:
    """Return the same logs as NaN, for metrics of the names in `known`."""
    unknown = dict.fromkeys(known, math.nan)
    return around_pruning(unknown, unknown)
