"""One running `fit`: what it was given, and what to undo when it is over."""

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
    """What is true of a model only while its `fit` runs.

    Args:
        arguments: Those of `fit`, by name; `None` if they are not known.

    Attributes:
        known: Whether the arguments are known.
        callbacks: The user's, in the order in which they are called; only
            those of this library where the arguments are not known.
        data: What is trained on; `None` if that is not known.
        validation: What `evaluate` must be given to validate as this `fit`
            does; `None` if it does not, or on data that can be gone through
            only once.
        thresholds: Callbacks that write the best epoch down -> the value that
            they began with.
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
        """Has a function called when it is over, however it ended."""
        self._exits.callback(function)

    def undo(self) -> None:
        """Calls what `on_exit` was given, the last first."""
        self._exits.close()

    def warn_if_unknown(self, model: keras.Model, lost: str) -> None:
        """Warns once for a model of what is lost if that is not known.

        Args:
            model: The model.
            lost: Clause that says what is lost.
        """
        record = record_of(model)
        if self.known or record.warned:
            return
        record.warned = True
        warnings.warn(
            f"Keras does not tell callbacks all that `fit` was given: {lost}. "
            "Call `keras_bimp.fit(model, ...)` in place of `model.fit(...)`.",
            stacklevel=2,
        )

    def begin_epoch(self, epoch: int) -> None:
        """Has data whose order is a function of the epoch take that order."""
        _set_epoch([self.data], epoch)

    def begin_validation(self, epoch: int) -> None:
        """The same for the validation data."""
        _set_epoch(self._validated, epoch)

    def end_epoch(
        self, model: keras.Model, epoch: int, logs: dict | None
    ) -> None:
        """Looks after each epoch whether data and weights are right, once."""
        if self._ended == epoch:
            return
        self._ended = epoch
        if sets_its_order(self.data):
            self.data.check_order()
        failures.stop_if_broken(model, epoch, logs or {})

    def compare_anew(self) -> None:
        """Lets callbacks that keep the best epoch forget those until now.

        The best epoch is one of those since the last pruning: the weights of
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
    """Trains a model of any class, for callbacks that must know all of `fit`.

    Keras tells a callback neither which others there are nor which data. The
    `fit` of a wrapped model does. For a model that keeps its class, with
    `Masked` layers inside or with a `Backup` alone, call this in place of
    `model.fit`: then callbacks of `keras_bimp` resume the order of an
    `EpochData` and what other callbacks remember, have those that keep the
    best epoch start again at a pruning, validate around prunings, and leave
    model and program as they were if the training fails.

    `model.fit` prunes and saves backups, too. It warns if it validates while
    it prunes, or resumes: then some of this is lost.

    Args:
        model: A compiled `keras.Model`.
        *args: Those of `model.fit`.
        **kwargs: Those of `model.fit`. `shuffle` defaults to `False` for an
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
    """Calls a method `fit` of a model, with a `Fit` as long as it runs."""
    bound = inspect.signature(function).bind(*args, **kwargs).arguments
    # A class's own `fit` may pass on whatever it is given.
    by_place = zip(_NAMES, bound.pop("args", ()), strict=False)
    given = {**dict(by_place), **bound.pop("kwargs", {}), **bound}
    if sets_its_order(given.get("x")) and "shuffle" not in given:
        kwargs = {**kwargs, "shuffle": False}
    outer = _present(model)
    if outer is not None and not outer.known:
        outer.undo()  # It died.
        outer = None
    fit = Fit(given)
    _put(model, fit)
    try:
        return function(*args, **kwargs)
    finally:
        _put(model, outer)
        fit.undo()


def fit_of(callback: keras.callbacks.Callback) -> Fit:
    """The `fit` that calls a callback. To be called in `on_train_begin`."""
    model = callback.model
    fit = _present(model)
    if fit is not None and fit.known:
        if callback not in fit.callbacks:  # One of the user's calls it.
            fit.callbacks.insert(0, callback)
        return fit
    # Keras gives all callbacks of one `fit` one and the same dict.
    if fit is None or fit.params is not callback.params:
        if fit is not None:
            fit.undo()  # It died.
        fit = Fit()
        fit.params = callback.params
        _put(model, fit)
    fit.callbacks.append(callback)
    return fit


def leave(callback: keras.callbacks.Callback) -> None:
    """Says in `on_train_end` that a callback is done."""
    fit = _present(callback.model)
    if fit is not None and not fit.known:
        fit.callbacks.remove(callback)
        if not fit.callbacks:
            fit.undo()
            _put(callback.model, None)


def sets_its_order(data) -> bool:
    """Whether data have an order of their own for each epoch."""
    return getattr(data, "shuffles_itself", False)


def _present(model):
    return vars(model).get(_PLACE)


def _put(model, fit):
    # Not as Keras sets attributes: it tracks what they are.
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
