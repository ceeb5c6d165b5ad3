"""The metrics on the validation data just before and after a pruning."""

import math

import keras

from keras_bimp._src.evaluating import evaluate
from keras_bimp._src.evaluating import scalars


class Validation:
    """Validates around prunings, if the `fit` that begins has data for it.

    Args:
        given: What `evaluate` is given to validate, or `None`.
    """

    def __init__(self, given: dict | None):
        self._given = given
        self._known = {}

    def remember(self, model: keras.Model, logs: dict) -> None:
        """Takes the metrics of an epoch that ends from its logs."""
        # Not what other callbacks have added.
        own = {f"val_{name}" for name in model.get_metrics_result()}
        self._known = {
            name: value for name, value in scalars(logs).items() if name in own
        }

    def forget(self) -> None:
        """The weights change: what is known is of no use any more."""
        self._known = {}

    def __call__(self, model: keras.Model) -> dict[str, float]:
        """The metrics now, by their names in the logs, as `val_loss`."""
        if self._given is None:
            return {}
        if not self._known:
            found = evaluate(model, self._given)
            self._known = {f"val_{name}": found[name] for name in found}
        return dict(self._known)


def around_pruning(before: dict, after: dict) -> dict[str, float]:
    """The logs that tell the metrics around the last pruning."""
    return {
        **{f"{name}_before_pruning": v for name, v in before.items()},
        **{f"{name}_after_pruning": v for name, v in after.items()},
    }


def no_pruning_yet(known: dict) -> dict[str, float]:
    """The same, not known, for metrics of the names in `known`."""
    unknown = dict.fromkeys(known, math.nan)
    return around_pruning(unknown, unknown)
