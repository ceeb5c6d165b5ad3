"""A running `fit`: its arguments, and the cleanup when it ends."""

import contextlib
import inspect
import warnings
from collections.abc import Callable
from collections.abc import Iterator

import keras

from keras_bimp._src import failures
from keras_bimp._src.keras_internals.trainer import validation_split_of
from keras_bimp._src.model_record import record_of

# The attribute of a model that holds its running `Fit`.
_PLACE = "_keras_bimp_fit"
_NAMES = list(inspect.signature(keras.Model.fit).parameters)[1:]


class Fit:
    """State of a model that exists only while its `fit` runs.

    Args:
        arguments: The arguments of `fit`, by name; `None` if unknown.

    Attributes:
        known: Whether the arguments are known.
        callbacks: The user's callbacks, in calling order; only those of this
            library if the arguments are unknown.
        data: The training data; `None` if unknown.
        validation: Arguments of `evaluate` for the validation of this `fit`;
            `None` if there is none, or its data can be read only once.
        thresholds: Callbacks that save the best epoch -> their initial best
            value.
    """

    def __init__(self, arguments: dict | None = None):
        self.known = arguments is not None
        arguments = arguments or {}
        given = arguments.get("callbacks")
        if isinstance(given, keras.callbacks.CallbackList):
            given = given.callbacks
        self.callbacks = keras.tree.flatten(given) if given else []
        self.data = arguments.get("x")
        validation_data = validation_split_of(arguments)
        self.validation = _for_evaluate(arguments, validation_data)
        self._validated = keras.tree.flatten(validation_data)
        self.thresholds = {
            callback: callback.best
            for callback in self.callbacks
            if isinstance(callback, keras.callbacks.ModelCheckpoint)
            and callback.save_best_only
        }
        self._exits = contextlib.ExitStack()
        self.params = self._ended = None

    def on_exit(self, function: Callable) -> None:
        """Call a function when the `fit` ends, however it ends."""
        self._exits.callback(function)

    def undo(self) -> None:
        """Call the functions of `on_exit`, last first."""
        self._exits.close()

    def warn_if_unknown(self, model: keras.Model, lost: str) -> None:
        """Warn, once per model, if arguments are unknown.

        Args:
            model: The model.
            lost: Clause that says what is lost.
        """
        record = record_of(model)
        if self.known or record.warned:
            return
        record.warned = True
        warnings.warn(
            f"Keras does not pass all arguments of `fit` to callbacks: {lost}. "
            "Call `keras_bimp.fit(model, ...)` in place of `model.fit(...)`.",
            stacklevel=2,
        )

    def begin_epoch(self, epoch: int) -> None:
        """Set the epoch of data whose order depends on it."""
        _set_epoch([self.data], epoch)

    def begin_validation(self, epoch: int) -> None:
        """Set the epoch of the validation data."""
        _set_epoch(self._validated, epoch)

    def end_epoch(
        self, model: keras.Model, epoch: int, logs: dict | None
    ) -> None:
        """Check data order and weights, once after each epoch."""
        if self._ended == epoch:
            return
        self._ended = epoch
        if sets_its_order(self.data):
            self.data.check_order()
        failures.stop_if_broken(model, epoch, logs or {})

    def compare_anew(self) -> None:
        """Restart the comparison of callbacks that keep the best epoch.

        Only epochs since the last pruning may count, because the weights of
        an earlier one would bring pruned weights back.
        """
        for callback in self.callbacks:
            if isinstance(callback, keras.callbacks.EarlyStopping):
                callback.wait = 0
                callback.best = None
                callback.best_weights = None
            elif callback in self.thresholds:
                callback.best = self.thresholds[callback]


def fit(model: keras.Model, *args, **kwargs) -> keras.callbacks.History:
    """Train any model with callbacks that need all arguments of `fit`.

    Keras passes neither the data nor the other callbacks to a callback; the
    `fit` of a wrapped model does. For a model that keeps its class, with
    `Masked` layers inside or with only a `Backup`, call this instead of
    `model.fit`. Then callbacks of `keras_bimp` resume the order of an
    `EpochData` and the state of other callbacks, restart callbacks that keep
    the best epoch at each pruning, validate around prunings, and clean up if
    training fails.

    `model.fit` also prunes and saves backups. It warns if it validates while
    pruning, or resumes, because some of this is lost then.

    Args:
        model: A compiled `keras.Model`.
        *args: Passed to `model.fit`.
        **kwargs: Passed to `model.fit`. `shuffle` defaults to `False` for an
            `EpochData`.

    Returns:
        The `keras.callbacks.History`.

    Example:

    ```python
    data = keras_bimp.backup.EpochData(x, y, batch_size=64, seed=0)
    keras_bimp.fit(
        model,
        data,
        epochs=10,
        callbacks=[keras_bimp.Backup("backup/dense")],
    )
    ```
    """
    return run_fit(model, model.fit, args, kwargs)


def run_fit(model: keras.Model, function: Callable, args, kwargs):
    """Call a `fit` method of a model, with a `Fit` while it runs."""
    bound = inspect.signature(function).bind(*args, **kwargs).arguments
    # A custom `fit` may have `*args` and `**kwargs`.
    by_place = zip(_NAMES, bound.pop("args", ()), strict=False)
    given = {**dict(by_place), **bound.pop("kwargs", {}), **bound}
    if sets_its_order(given.get("x")) and "shuffle" not in given:
        kwargs = {**kwargs, "shuffle": False}
    outer = _present(model)
    if outer is not None and not outer.known:
        outer.undo()  # It was aborted.
        outer = None
    fit = Fit(given)
    _put(model, fit)
    try:
        return function(*args, **kwargs)
    finally:
        _put(model, outer)
        fit.undo()


def fit_of(callback: keras.callbacks.Callback) -> Fit:
    """Return the `fit` that calls a callback. Use it in `on_train_begin`."""
    model = callback.model
    fit = _present(model)
    if fit is not None and fit.known:
        if callback not in fit.callbacks:  # A user's callback calls it.
            fit.callbacks.insert(0, callback)
        return fit
    # Keras gives all callbacks of one `fit` the same dict.
    if fit is None or fit.params is not callback.params:
        if fit is not None:
            fit.undo()  # It was aborted.
        fit = Fit()
        fit.params = callback.params
        _put(model, fit)
    fit.callbacks.append(callback)
    return fit


def leave(callback: keras.callbacks.Callback) -> None:
    """Unregister a callback, in `on_train_end`."""
    fit = _present(callback.model)
    if fit is not None and not fit.known:
        fit.callbacks.remove(callback)
        if not fit.callbacks:
            fit.undo()
            _put(callback.model, None)


def sets_its_order(data) -> bool:
    """Return whether data sets its own order for each epoch."""
    return getattr(data, "shuffles_itself", False)


def _present(model):
    return vars(model).get(_PLACE)


def _put(model, fit):
    # Not with `setattr`, because Keras tracks attributes.
    if fit is None:
        vars(model).pop(_PLACE, None)
    else:
        vars(model)[_PLACE] = fit


def _set_epoch(data, epoch):
    for each in data:
        if sets_its_order(each):
            each.epoch = epoch


def _for_evaluate(given, validation_data):
    if validation_data is None:
        return None
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(validation_data)
    if isinstance(x, Iterator):
        return None
    return {
        "x": x,
        "y": y,
        "sample_weight": sample_weight,
        "batch_size": given.get("validation_batch_size")
        or given.get("batch_size"),
        "steps": given.get("validation_steps"),
    }
