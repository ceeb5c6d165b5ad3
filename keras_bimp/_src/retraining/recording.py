"""Record the learning rates of a training."""

import os
import warnings

import keras
import numpy as np

from keras_bimp._src.backends import as_array
from keras_bimp._src.backup import Resumable
from keras_bimp._src.fitting import fit_of
from keras_bimp._src.fitting import leave
from keras_bimp._src.keras_internals.optimizer_state import rate_of
from keras_bimp._src.retraining.array_files import read_arrays
from keras_bimp._src.retraining.array_files import write_arrays
from keras_bimp._src.retraining.learning_rates import step_count
from keras_bimp._src.schedules import schedule_values
from keras_bimp._src.slots import MULTI_OPTIMIZER
from keras_bimp._src.slots import innermost


class RecordLearningRate(Resumable):
    """Records the learning rate of every iteration of a training.

    Most retraining schedules are based on the rates of the original training.
    This callback records them, whether they are set by a number, a
    `LearningRateSchedule`, or callbacks such as `ReduceLROnPlateau`. Pass it
    later as `original`, or create another one from the same file. List it
    before callbacks that change the learning rate between batches.

    A new `fit` starts a new record. A `fit` with an `initial_epoch`, or
    resumed by `Backup` or `BackupAndRestore`, keeps the earlier epochs.

    If the learning rate is a number, which callbacks may change, it is read
    after every execution of the train step. A GPU must wait for this, and JAX
    must update all variables: set `steps_per_execution` to do it less often.
    A schedule costs nothing per step.

    Args:
        filepath: File for the record, written after every epoch and read if it
            exists. Defaults to memory only.

    Raises:
        ValueError: If `filepath` is some other file, or if the model is
            compiled with a `MultiOptimizer` (when `fit` begins).

    Example:

    >>> record = keras_bimp.RecordLearningRate()
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.5), "mse")
    >>> history = model.fit(
    ...     np.ones((4, 2)), np.ones(4), batch_size=2, epochs=2, verbose=0,
    ...     callbacks=[record],
    ... )
    >>> record.values()
    array([0.5, 0.5, 0.5, 0.5])
    >>> keras_bimp.schedules.FT(record, steps=2).values()
    array([0.5, 0.5])
    """

    leads = False

    def __init__(self, filepath: str | os.PathLike | None = None):
        super().__init__()
        self.filepath = None if filepath is None else os.fspath(filepath)
        self._epochs = []
        self._rates = []
        self._before = []
        if self.filepath is not None and os.path.exists(self.filepath):
            self._epochs = self._load()

    def values(self) -> np.ndarray:
        """Return the rates, one per iteration, as a float64 array."""
        return np.concatenate([np.empty(0), *self._epochs])

    def on_train_begin(self, logs=None):
        if isinstance(self._optimizer(), MULTI_OPTIMIZER):
            raise ValueError(
                "The model must be compiled with one learning rate. Received: "
                "MultiOptimizer, each of whose optimizers has its own"
            )
        fit_of(self)
        self._first = True
        self._follows_schedule = False

    def on_epoch_begin(self, epoch, logs=None):
        if self._first and epoch > len(self._epochs):
            warnings.warn(
                f"`fit` begins at epoch {epoch}, but only the rates of "
                f"{len(self._epochs)} earlier epochs are recorded: the "
                "record will not cover the whole training.",
                stacklevel=2,
            )
        if self._first:
            self._epochs = self._epochs[:epoch]
        self._first = False
        optimizer = self._optimizer()
        self._read = step_count(optimizer)
        self._rates, self._before = self._before, []
        self._begin = self._read - len(self._rates)
        self._follows_schedule = isinstance(
            rate_of(optimizer),
            keras.optimizers.schedules.LearningRateSchedule,
        )

    def on_train_batch_end(self, batch, logs=None):
        if self._follows_schedule:
            return
        optimizer = self._optimizer()
        rate = rate_of(optimizer)
        count = step_count(optimizer)
        rate = as_array(rate) if isinstance(rate, keras.Variable) else rate()
        self._rates += [float(rate)] * (count - self._read)
        self._read = count

    def on_epoch_end(self, epoch, logs=None):
        self._epochs.append(self._rates_of_epoch())
        self._follows_schedule, self._rates = False, []
        if self.filepath is not None:
            self._save()

    def on_train_end(self, logs=None):
        leave(self)

    def get_state(self):
        return {"epochs": self._epochs, "running": self._rates_of_epoch()}

    def set_state(self, state):
        self._epochs = state["epochs"]
        self._before = state["running"].tolist()

    def _rates_of_epoch(self):
        """Return the rates of the current epoch so far."""
        rates = self._rates
        if self._follows_schedule:
            optimizer = self._optimizer()
            steps = step_count(optimizer) - self._begin
            if steps:
                rates = schedule_values(rate_of(optimizer), steps, self._begin)
        return np.asarray(rates, dtype="float64")

    def _optimizer(self):
        # On JAX, reading `self.model` updates its variables.
        return innermost(self.model.optimizer)

    def _save(self):
        iterations = [len(rates) for rates in self._epochs]
        write_arrays(
            self.filepath, {"rates": self.values(), "iterations": iterations}
        )

    def _load(self):
        arrays = read_arrays(self.filepath, "filepath")
        if set(arrays) != {"rates", "iterations"}:
            raise ValueError(
                "`filepath` must be a file that `RecordLearningRate` wrote, "
                f"or not exist yet. Received: filepath={self.filepath}"
            )
        ends = np.cumsum(arrays["iterations"])
        return np.split(arrays["rates"], ends[:-1])
