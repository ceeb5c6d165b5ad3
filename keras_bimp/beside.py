"""The callbacks of one `fit`, of which Keras tells none about the others."""

import inspect
from types import FrameType

import keras


def callbacks_beside(callback: keras.callbacks.Callback) -> list:
    """All callbacks of the `fit` that calls a method of `callback` now.

    To be called in such a method, `on_train_begin` say.

    Returns:
        The callbacks in the order in which `fit` calls them, `callback` among
        them.
    """
    found = _callbacks_around(callback, inspect.currentframe())
    return [callback] if found is None else found  # Called by hand.


def is_in_fit(
    callback: keras.callbacks.Callback, frame: FrameType | None = None
) -> bool:
    """Whether a `fit` with `callback` is running in this thread.

    Args:
        callback: The callback.
        frame: Where the thread is. Defaults to here.
    """
    if frame is None:
        frame = inspect.currentframe()
    return _callbacks_around(callback, frame) is not None


def _callbacks_around(callback, frame):
    while frame is not None:
        # In `fit` it is the one, in the list's own methods the other.
        for name in ("callbacks", "self"):
            found = frame.f_locals.get(name)
            if isinstance(found, keras.callbacks.CallbackList) and any(
                each is callback for each in found.callbacks
            ):
                return list(found.callbacks)
        frame = frame.f_back
    return None


def best_so_far(callbacks: list) -> dict:
    """Callbacks that write the best epoch down -> their best value."""
    return {
        callback: callback.best
        for callback in callbacks
        if isinstance(callback, keras.callbacks.ModelCheckpoint)
        and callback.save_best_only
    }


def begin_comparing_anew(callbacks: list, thresholds: dict) -> None:
    """Lets callbacks that keep the best epoch forget those until now.

    The best epoch is one of those since the last pruning: the weights of an
    earlier one would bring pruned weights back.

    Args:
        callbacks: The callbacks of a `fit`.
        thresholds: What `best_so_far` returned when it began.
    """
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.EarlyStopping):
            callback.wait = 0
            callback.best = None
            callback.best_weights = None
        elif callback in thresholds:
            callback.best = thresholds[callback]
