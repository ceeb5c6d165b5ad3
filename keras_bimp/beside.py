"""The callbacks of one `fit`, of which Keras tells none about the others."""

import inspect

import keras


def callbacks_beside(callback: keras.callbacks.Callback) -> list:
    """All callbacks of the `fit` that calls a method of `callback` now.

    To be called in such a method, `on_train_begin` say.

    Returns:
        The callbacks in the order in which `fit` calls them, `callback` among
        them.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList) and any(
            each is callback for each in caller.callbacks
        ):
            return list(caller.callbacks)
        frame = frame.f_back
    return [callback]  # Called by hand.


def begin_comparing_anew(callbacks: list) -> None:
    """Lets callbacks that keep the best epoch forget those until now.

    The best epoch is one of those since the last pruning: the weights of an
    earlier one would bring pruned weights back.
    """
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.EarlyStopping):
            callback.wait = 0
            callback.best = None
            callback.best_weights = None
        elif (
            isinstance(callback, keras.callbacks.ModelCheckpoint)
            and callback.save_best_only
        ):
            callback.best = None
