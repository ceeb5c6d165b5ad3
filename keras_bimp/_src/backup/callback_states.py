"""Read and restore the states of callbacks."""

import collections

import keras
import numpy as np

from keras_bimp._src.keras_internals.trainer import REMEMBERED


def read_callbacks(callbacks: list) -> dict:
    """Return the states of the callbacks that support it.

    These are Keras' own callbacks, and all with the methods `get_state()`,
    which returns what `Generations` can write, and `set_state(state)`.
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
    """Restore callbacks to the states that `read_callbacks` returned.

    Callbacks without a saved state are left unchanged.
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
    """Return the logs of all epochs, with unsupported values as text."""
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
    """Return a dict of callbacks by class and number within the class."""
    seen, found = collections.Counter(), {}
    for callback in callbacks:
        kind = type(callback).__name__
        found[f"{kind} {seen[kind]}"] = callback
        seen[kind] += 1
    return found
