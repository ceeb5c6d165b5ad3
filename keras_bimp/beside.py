"""The callbacks of one `fit`, of which Keras tells none about the others."""

import inspect
from collections.abc import Iterator
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


def validation_of(callback: keras.callbacks.Callback) -> dict | None:
    """What `evaluate` must be given to validate as the running `fit` does.

    To be called in a method that `fit` calls.

    Returns:
        Keyword arguments of `evaluate`; `None` if that `fit` does not
        validate, or on data that can be gone through only once.
    """
    frame = inspect.currentframe()
    while frame is not None:
        given = frame.f_locals
        around = given.get("callbacks")
        if (
            isinstance(around, keras.callbacks.CallbackList)
            and callback in around.callbacks
            and given.get("validation_data") is not None
        ):
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(
                given["validation_data"]
            )
            if isinstance(x, Iterator):
                return None
            return {
                "x": x,
                "y": y,
                "sample_weight": sample_weight,
                "batch_size": given["validation_batch_size"]
                or given["batch_size"],
                "steps": given["validation_steps"],
            }
        frame = frame.f_back
    return None


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
