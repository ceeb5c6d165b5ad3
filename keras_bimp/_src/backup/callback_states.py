"""What callbacks remember from epoch to epoch, read and set back."""

import collections

import keras
import numpy as np

from keras_bimp._src.keras_internals.trainer import REMEMBERED


def read_callbacks(callbacks: list) -> dict:
    """What those of some callbacks remember that can be asked.

    These are Keras' own, and all that have the methods `get_state()`, which
    returns what a `Generations` can write, and `set_state(state)`.
    """
    states = {}
    for name, callback in _by_name(callbacks).items():
        if hasattr(callback, "get_state"):
            states[name] = callback.get_state()
        elif names := _attributes(callback):
            states[name] = {
                attribute: getattr(callback, attribute)
                for attribute in names
                if hasattr(callback, attribute)
            }
    return states


def set_callbacks(callbacks: list, states: dict) -> None:
    """Sets the same callbacks to what `read_callbacks` returned.

    Those that were not there then stay as they are.
    """
    for name, callback in _by_name(callbacks).items():
        if name not in states:
            continue
        if hasattr(callback, "set_state"):
            callback.set_state(states[name])
        else:
            for attribute, value in states[name].items():
                setattr(callback, attribute, value)


def read_history(history: keras.callbacks.History) -> dict:
    """The logs of all epochs; what cannot be kept, as text."""
    return {
        name: [_plain(value) for value in values]
        for name, values in history.history.items()
    }


def _plain(value):
    kept = str | bool | int | float | list | np.ndarray | np.generic
    return value if value is None or isinstance(value, kept) else str(value)


def _attributes(callback):
    return next(
        (
            names
            for kind, names in REMEMBERED.items()
            if isinstance(callback, kind)
        ),
        (),
    )


def _by_name(callbacks):
    """Class, and number among those of its class, -> callback."""
    seen, found = collections.Counter(), {}
    for callback in callbacks:
        kind = type(callback).__name__
        found[f"{kind} {seen[kind]}"] = callback
        seen[kind] += 1
    return found
