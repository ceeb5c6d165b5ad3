"""The metrics on the validation data just before and after a pruning."""

import math

import keras

from keras_bimp.beside import validation_of


class Validation:
    """Validates around prunings, if the `fit` that begins has data for it.

    To be made in `on_train_begin`.

    Args:
        callback: What prunes, a callback of that `fit`.
    """

    def __init__(self, callback: keras.callbacks.Callback):
        self._given = validation_of(callback)
        self._known = {}

    def remember(self, logs: dict) -> None:
        """Takes the metrics of an epoch that ends from its logs."""
        self._known = {
            name: float(value)
            for name, value in logs.items()
            if name.startswith("val_")
        }

    def before_any_pruning(self) -> dict[str, float]:
        """The logs of `around_pruning` while there was none: not known."""
        if self._given is None:
            return {}
        unknown = dict.fromkeys(self._known, math.nan)
        return around_pruning(unknown, unknown)

    def forget(self) -> None:
        """The weights change: what is known is of no use any more."""
        self._known = {}

    def __call__(self, model: keras.Model) -> dict[str, float]:
        """The metrics now, by their names in the logs, as `val_loss`."""
        if self._given is None:
            return {}
        if not self._known:
            found = model.evaluate(**self._given, verbose=0, return_dict=True)
            model.reset_metrics()  # Those of the epoch begin at nothing.
            self._known = {f"val_{k}": float(v) for k, v in found.items()}
        return dict(self._known)


def around_pruning(before: dict, after: dict) -> dict[str, float]:
    """The logs that tell the metrics around the last pruning."""
    return {
        **{f"{name}_before_pruning": v for name, v in before.items()},
        **{f"{name}_after_pruning": v for name, v in after.items()},
    }
