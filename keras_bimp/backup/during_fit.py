"""The callback that lets a `fit` go on after it was killed."""

import json
import os
import pathlib
import warnings
import weakref

import keras
import numpy as np

from keras_bimp import failures
from keras_bimp.backup.epoch_data import data_of_this_fit
from keras_bimp.backup.generations import Generations
from keras_bimp.backup.generations import UnreadableError
from keras_bimp.backup.interrupts import Interrupts
from keras_bimp.backup.other_callbacks import read_callbacks
from keras_bimp.backup.other_callbacks import set_callbacks
from keras_bimp.backup.random_states import read_random_states
from keras_bimp.backup.random_states import set_random_states
from keras_bimp.backup.resumable import Resumable
from keras_bimp.backup.skipping import Skipping
from keras_bimp.backup.skipping import stop_skipping
from keras_bimp.backup.training_state import build_optimizer
from keras_bimp.backup.training_state import check_training
from keras_bimp.backup.training_state import read_metrics
from keras_bimp.backup.training_state import read_training
from keras_bimp.backup.training_state import set_training
from keras_bimp.beside import callbacks_beside
from keras_bimp.checks import check_integer
from keras_bimp.masking import masked_layers
from keras_bimp.metrics import sparsity
from keras_bimp.processes import gathered
from keras_bimp.processes import process_count
from keras_bimp.processes import process_index

# Models -> folders of the runs that they finished in this program.
_FINISHED = weakref.WeakKeyDictionary()


class Backup(keras.callbacks.Callback):
    """Keeps all that decides the future of a training, in files.

    The same program, started again after whatever ended it, goes on where the
    files say: at the last epoch that was finished, or the last `save_freq`
    batches. There is nothing to pass for that but the same folder. The files
    hold all variables of the model (masks, moving statistics, seeds), those of
    the optimizer, the position in the plan of `keras_bimp.callbacks`, what
    other callbacks remember, the history, and the states of the generators of
    random numbers. The result is the same to the last bit if the data come in
    the same order (see `EpochData`) and the operations are deterministic.
    With other data the state goes on, and the order starts over.

    Two generations are kept, each written beside the one before and then
    renamed; of a damaged one the SHA-256 tells. SIGTERM, and Ctrl-C, let the
    step finish and save it first; the exit code is 143 then. When all epochs
    are done the last one stays: the same call later sets the model to it and
    trains nothing. Another model, plan or budget needs another folder.

    A training whose loss or weights are no longer finite is stopped and not
    saved.

    `keras_bimp.callbacks(..., backup_dir=...)` has one. Use this class for
    trainings without pruning. List it before other callbacks.

    A callback of your own goes on, too, if it has the methods `get_state()`,
    which returns a dict of numbers, strings, lists and arrays, and
    `set_state(state)`.

    Args:
        backup_dir: Folder for the files of this run alone. Made if there is
            none.
        save_freq: `"epoch"`, or an integer >= 1: after so many batches, too.
        verbose: 0 is silent; 1 says when a run goes on or is incomplete.

    Raises:
        TypeError: If `save_freq` is of the wrong type.
        ValueError: When `fit` begins, if the folder cannot be written to,
            or holds the state of another run, or none that can be read.

    Example:

    ```python
    data = keras_bimp.backup.EpochData(x, y, batch_size=64, seed=0)
    model.fit(
        data,
        epochs=100,
        shuffle=False,
        callbacks=[keras_bimp.Backup("backup/dense")],
    )
    ```
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike,
        save_freq: str | int = "epoch",
        verbose: int = 1,
    ):
        super().__init__()
        if not isinstance(backup_dir, str | os.PathLike) or not str(backup_dir):
            raise TypeError(
                "`backup_dir` must be a path. "
                f"Received: backup_dir={backup_dir!r}"
            )
        if save_freq != "epoch":
            check_integer("save_freq", save_freq, minimum=1)
        self.save_freq = save_freq
        self.verbose = verbose
        self._generations = Generations(backup_dir)
        self._failure = pathlib.Path(backup_dir) / "failure.json"

    def on_train_begin(self, logs=None):
        self._beside = [c for c in callbacks_beside(self) if c is not self]
        self._resumables = [c for c in self._beside if isinstance(c, Resumable)]
        self._check_beside()
        self._data = data_of_this_fit()
        failures.mark_failed(self.model, None)
        self.model._initial_epoch = None
        stop_skipping(self.model)
        self._skipping = False
        self._in_epoch = self._test_metrics = None
        self._interrupts = Interrupts(self.model)
        self._done = 0
        try:
            self._resumed = self._prepare()
        except BaseException:
            for callback in self._resumables:
                callback.undo_train_begin()
            raise
        if process_count() == 1:
            self._interrupts.install()

    def on_epoch_begin(self, epoch, logs=None):
        if self._data is not None:
            self._data.epoch = epoch
        resumed, self._resumed = self._resumed, None
        self._in_epoch = epoch
        self._batch = self._saved_at = 0
        if resumed is None:
            self._random_at_epoch = read_random_states()
            self._save(epoch, 0)
        else:
            self._set_others(resumed)
            self._random_at_epoch = resumed["random_at_epoch"]
            set_random_states(self._random_at_epoch)
            if resumed["batch"]:
                self._skip(resumed)
        self.model._initial_epoch = None  # Or the next `fit` begins there.
        self._act()

    def on_train_batch_begin(self, batch, logs=None):
        self._batch = batch
        # Nothing here may look at the model unless it must: JAX would wait.
        if self._skipping:
            return
        due = (
            self.save_freq != "epoch"
            and batch - self._saved_at >= self.save_freq
        )
        if due or self._interrupts.asked is not None:
            self._saved_at = batch
            self._save(self._in_epoch, batch, metrics=read_metrics(self.model))
        self._act()

    def on_test_begin(self, logs=None):
        if self._in_epoch is not None:
            self._test_metrics = read_metrics(self.model)

    def on_test_batch_begin(self, batch, logs=None):
        if self._interrupts.asked is not None and self._test_metrics:
            steps = self.params.get("steps")
            if steps is not None and self._in_epoch is not None:
                self._save(self._in_epoch, steps, metrics=self._test_metrics)
        self._act()

    def on_epoch_end(self, epoch, logs=None):
        self._end_skipping()
        self._in_epoch = self._test_metrics = None
        steps = self.params.get("steps")
        whole = self._batch + self.model.steps_per_execution
        if steps is None or whole >= steps:
            self._done = epoch + 1
        if self._data is not None:
            self._data.check_order()
        failures.stop_if_broken(self.model, epoch, logs or {})

    def on_train_end(self, logs=None):
        resumed, self._resumed = self._resumed, None
        self.model._initial_epoch = None
        epochs = self.params["epochs"]
        reason = failures.why_failed(self.model)
        if resumed is not None:
            self._set_others(resumed)
            set_random_states(resumed["random"])
        elif reason is not None:
            self._mark_failed(reason)
        elif self._done == epochs:
            self._save(epochs, 0)
        if self._done == epochs and reason is None:
            folders = _FINISHED.setdefault(self.model, set())
            folders.add(self._generations.folder.resolve())
        else:
            self._say_incomplete()
        self._act()
        self._interrupts.restore()

    def _check_beside(self):
        for callback in self._beside:
            if isinstance(callback, Backup | keras.callbacks.BackupAndRestore):
                raise ValueError(
                    "`callbacks` of one `fit` must hold one backup only: two "
                    "would set the model back one after the other. Received: "
                    f"{type(callback).__name__} beside `backup_dir`"
                )

    def _prepare(self):
        """Reads the newest state, if there is one, and sets the model to it."""
        if process_index() == 0:
            try:
                self._generations.prepare()
            except OSError as error:
                raise ValueError(
                    "`backup_dir` must be a folder that can be written to. "
                    f"Received: backup_dir={self._folder}: {error}"
                ) from error
        build_optimizer(self.model)
        if self._generations.folder.resolve() in _FINISHED.get(self.model, ()):
            # The model is where that run ended, and is to go on from there.
            _FINISHED[self.model].remove(self._generations.folder.resolve())
            return None
        try:
            state = self._generations.read()
        except UnreadableError as error:
            raise ValueError(
                "`backup_dir` must hold a state that can be read, or none. "
                f"Received: backup_dir={self._folder}: {error}. Delete the "
                "folder to start anew"
            ) from error
        self._check_agreement(state)
        if state is None:
            return None
        self._check(state)
        set_training(self.model, state["training"])
        # Others are set later: their own `on_train_begin` may follow.
        set_callbacks(self._resumables, state["resumables"])
        self.model._initial_epoch = state["epoch"]
        self._done = state["epoch"]
        self._say_resumed(state)
        return state

    def _check_agreement(self, state):
        """Raises ValueError if several processes read different states."""
        place = [-1, -1] if state is None else [state["epoch"], state["batch"]]
        places = gathered(np.array(place)).tolist()
        if any(other != places[0] for other in places):
            raise ValueError(
                "`backup_dir` must be a folder that all processes share. "
                f"Received: backup_dir={self._folder}, where they find states "
                f"of (epoch, batch) {places}"
            )

    def _check(self, state):
        """Raises ValueError if a state is not that of this run."""
        try:
            there, here = state["run"], self._run()
            for fact in {**here, **there}:
                if there.get(fact) != here.get(fact):
                    raise ValueError(
                        f"one of a run with {fact} = {there.get(fact)}, "
                        f"where this has {here.get(fact)}"
                    )
            epochs = self.params["epochs"]
            if state["epoch"] > epochs:
                raise ValueError(
                    f"one of a run that has had {state['epoch']} epochs, "
                    f"where this is to have {epochs}"
                )
            check_training(self.model, state["training"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                "`backup_dir` must be a folder of states of this version of "
                f"keras_bimp. Received: backup_dir={self._folder}: {error!r}"
            ) from error
        except ValueError as error:
            raise ValueError(
                "`backup_dir` must hold the state of this very run, or none. "
                f"Received: backup_dir={self._folder}, which holds {error}. "
                "Use another folder, or delete it"
            ) from error

    def _others(self):
        return [c for c in self._beside if not isinstance(c, Resumable)]

    def _run(self):
        """Facts that a run has in common with what it goes on from."""
        facts = {"optimizer": type(self.model.optimizer).__name__}
        for callback in self._resumables:
            facts.update(callback.facts())
        return json.loads(json.dumps(facts))

    def _save(self, epoch, batch, metrics=None):
        state = {
            "run": self._run(),
            "epoch": epoch,
            "batch": batch,
            "training": read_training(self.model),
            "metrics": metrics,
            "resumables": read_callbacks(self._resumables),
            "callbacks": read_callbacks(self._others()),
            "history": {
                name: [_plain(value) for value in values]
                for name, values in self.model.history.history.items()
            },
            "history_epochs": self.model.history.epoch,
            "random": read_random_states(),
            "random_at_epoch": self._random_at_epoch,
        }
        if not _is_finite(state["training"]):
            reason = f"in epoch {epoch + 1} a weight is not finite"
            failures.stop(self.model, reason)
            return
        if process_index() > 0:
            return
        try:
            self._generations.write(state)
        except OSError as error:
            warnings.warn(
                f"No backup could be written to {self._folder}: {error}. The "
                "training goes on; the backup before stays as it is.",
                stacklevel=2,
            )
            return
        self._failure.unlink(missing_ok=True)

    def _set_others(self, state):
        """Sets what `on_train_begin` of other callbacks has reset."""
        set_callbacks(self._others(), state["callbacks"])
        history = self.model.history
        history.epoch = list(state["history_epochs"])
        history.history = {k: list(v) for k, v in state["history"].items()}

    def _skip(self, state):
        def go_on():
            self._skipping = False
            set_random_states(state["random"])

        self._skipping = True
        self._saved_at = state["batch"]
        Skipping(self.model, state["batch"], state["metrics"], then=go_on)

    def _end_skipping(self):
        stop_skipping(self.model)
        self._skipping = False

    def _act(self):
        if self._interrupts.asked is not None:
            self._end_skipping()
            self._say_incomplete()
            self._interrupts.act()

    def _mark_failed(self, reason):
        if process_index() == 0:
            self._failure.write_text(json.dumps({"reason": reason}))

    def _say_resumed(self, state):
        epochs = self.params["epochs"]
        if self._failure.exists():
            reason = json.loads(self._failure.read_text())["reason"]
            warnings.warn(
                f"The run before failed: {reason}. This one goes on from the "
                "last good state.",
                stacklevel=2,
            )
        if state["epoch"] == epochs and not state["batch"]:
            self._print(
                f"All {epochs} epochs were done in a run before: the model is "
                f"set to the end of it. Delete {self._folder} to train anew."
            )
        else:
            self._print(
                f"Goes on with epoch {state['epoch'] + 1} of {epochs}, "
                f"after {state['batch']} of its batches, from {self._folder}."
            )

    def _say_incomplete(self):
        text = f"{self._done} of {self.params['epochs']} epochs are done"
        if masked_layers(self.model):
            target = self._run().get("target_sparsity")
            reached = sparsity(self.model).prunable
            text += f", sparsity {reached:.2%}"
            text += "" if target is None else f" of {target:.2%}"
        self._print(f"Incomplete: {text}. The same `fit` goes on from here.")

    def _print(self, text):
        if self.verbose and process_index() == 0:
            print(text)

    @property
    def _folder(self):
        return self._generations.folder


def _plain(value):
    """What a log says, or a text of it."""
    kept = str | bool | int | float | list | np.ndarray | np.generic
    return value if value is None or isinstance(value, kept) else str(value)


def _is_finite(training):
    """Whether all numbers are, of those that are meant to be."""
    floats = [
        array
        for array in training["variables"]
        if array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    ]
    with np.errstate(all="ignore"):
        # A sum is faster, and finite unless it overflows.
        return all(
            np.isfinite(array.sum()) or np.isfinite(array).all()
            for array in floats
        )
