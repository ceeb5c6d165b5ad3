"""The callback that lets a killed `fit` resume."""

import itertools
import json
import os
import warnings

import keras

from keras_bimp._src import failures
from keras_bimp._src.backup import messages
from keras_bimp._src.backup.agreement import check_processes
from keras_bimp._src.backup.agreement import check_state
from keras_bimp._src.backup.callback_states import read_callbacks
from keras_bimp._src.backup.callback_states import read_history
from keras_bimp._src.backup.callback_states import set_callbacks
from keras_bimp._src.backup.generations import Generations
from keras_bimp._src.backup.generations import UnreadableError
from keras_bimp._src.backup.interrupts import Interrupts
from keras_bimp._src.backup.random_states import read_random_states
from keras_bimp._src.backup.random_states import set_random_states
from keras_bimp._src.backup.resumable import Resumable
from keras_bimp._src.backup.skipping import Skipping
from keras_bimp._src.backup.skipping import stop_skipping
from keras_bimp._src.backup.training_state import build_optimizer
from keras_bimp._src.backup.training_state import read_metrics
from keras_bimp._src.backup.training_state import read_training
from keras_bimp._src.backup.training_state import set_training
from keras_bimp._src.checks import check_integer
from keras_bimp._src.fitting import fit_of
from keras_bimp._src.fitting import leave
from keras_bimp._src.keras_internals.trainer import begin_at
from keras_bimp._src.model_record import record_of
from keras_bimp._src.processes import process_count
from keras_bimp._src.processes import process_index


class Backup(keras.callbacks.Callback):
    """Saves everything that affects the rest of a training to files.

    Start the same program again with the same folder, and training resumes: at
    the last finished epoch, or after the last `save_freq` batches. The files
    contain all variables of the model (masks, moving statistics, seeds) and of
    the optimizer, the position in the plan of `keras_bimp.callbacks`, the
    state of other callbacks, the history, and the states of the random number
    generators. The result is bit-identical if the data comes in the same order
    (see `EpochData`) and the operations are deterministic. With other data the
    state is restored, but the order of the data starts over.

    Two generations are kept. Each is written next to the previous one and then
    renamed; a SHA-256 checksum reveals damage. On SIGTERM and Ctrl-C, the step
    finishes and is saved first; the exit code is then 143. When all epochs are
    done, the last file stays: running the program again restores the result
    without training. Use a separate folder for another model, plan or budget,
    and for another `fit` of the same program.

    If the loss or the weights are no longer finite, training stops and is not
    saved.

    `keras_bimp.callbacks(..., backup_dir=...)` includes a `Backup`. Use this
    class for training without pruning, and `keras_bimp.fit(model, ...)`
    instead of `model.fit(...)` if the model is not wrapped. List it after
    `keras_bimp.callbacks` and before other callbacks. These callbacks resume
    too: `EarlyStopping`, `ModelCheckpoint`, `ReduceLROnPlateau`,
    `SwapEMAWeights`, `CSVLogger` if listed after this one (it may write the
    row of the last epoch twice), and custom callbacks with the methods
    `get_state()`, which returns a dict of numbers, strings, lists, arrays and
    nested dicts, and `set_state(state)`.

    After a backup in the middle of an epoch, callbacks see the earlier batches
    again, with the metrics as of the backup.

    Args:
        backup_dir: Folder for the files of this run only. Created if needed.
        save_freq: `"epoch"`, or an integer >= 1 to save also after that many
            batches.
        verbose: 0 is silent; 1 reports when a run resumes or is incomplete.

    Raises:
        TypeError: If `save_freq` has the wrong type.
        ValueError: When `fit` begins, if the folder cannot be written to,
            holds the state of another run or no readable state, or the model
            is not built.

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
        self._failure = messages.FailureNote(backup_dir)

    def on_train_begin(self, logs=None):
        self._fit = fit_of(self)
        self._beside = [c for c in self._fit.callbacks if c is not self]
        self._resumables = [c for c in self._beside if isinstance(c, Resumable)]
        failures.mark_failed(self.model, None)
        self._skipping = self._to_finish = None
        self._in_epoch = self._test_metrics = self._random_at_epoch = None
        self._interrupts = Interrupts()
        self._done = 0
        self._fit.on_exit(self._put_back)
        try:
            self._check_beside()
            self._resumed = self._prepare()
        except BaseException:
            self._fit.undo()
            raise
        if process_count() == 1:
            self._interrupts.install()

    def _put_back(self):
        begin_at(self.model, None)
        stop_skipping(self.model)
        self._interrupts.restore()

    def on_epoch_begin(self, epoch, logs=None):
        self._fit.begin_epoch(epoch)
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
                self._to_finish = resumed
                self._skipping = Skipping(
                    self.model,
                    resumed["batch"],
                    resumed["metrics"],
                    self._go_on,
                )
        self._act()

    def on_train_batch_begin(self, batch, logs=None):
        self._batch = batch
        # Do not touch the model here unless necessary: JAX would wait.
        if self._skipping is not None:
            # Another callback may have recreated the train step.
            self._skipping.stand_in()
            return
        self._finish()
        due = (
            self.save_freq != "epoch"
            and batch - self._saved_at >= self.save_freq
        )
        if due or self._interrupts.asked is not None:
            self._saved_at = batch
            self._save(self._in_epoch, batch, metrics=read_metrics(self.model))
        self._act()

    def on_test_begin(self, logs=None):
        if self._in_epoch is None:
            return
        self._finish()
        self._test_metrics = read_metrics(self.model)
        self._fit.begin_validation(self._in_epoch)

    def on_test_batch_begin(self, batch, logs=None):
        if self._interrupts.asked is not None and self._in_epoch is not None:
            self._save(self._in_epoch, self._batches_done(), self._test_metrics)
        self._act()

    def on_epoch_end(self, epoch, logs=None):
        self._finish()
        self._in_epoch = self._test_metrics = None
        steps = self.params.get("steps")
        if steps is None or self._batches_done() == steps:
            self._done = epoch + 1
        self._fit.end_epoch(self.model, epoch, logs)

    def on_train_end(self, logs=None):
        resumed, self._resumed = self._resumed, None
        epochs = self.params["epochs"]
        failures.settle(self.model)
        reason = failures.why_failed(self.model)
        if resumed is not None:
            self._set_others(resumed)
            set_random_states(resumed["random"])
        elif reason is not None:
            if process_index() == 0:
                self._failure.write(reason)
        elif self._done == epochs > 0:
            self._save(epochs, 0)
        if self._done == epochs and reason is None:
            record_of(self.model).finished.add(self._folder.resolve())
        else:
            self._say_incomplete()
        self._act()
        self._put_back()
        leave(self)

    def _check_beside(self):
        check_places(self._fit.callbacks)
        for callback in self._beside:
            if isinstance(callback, Backup | keras.callbacks.BackupAndRestore):
                raise ValueError(
                    "`callbacks` of one `fit` must hold only one backup: two "
                    "would both restore the model. Received: "
                    f"{type(callback).__name__} beside `backup_dir`"
                )

    def _prepare(self):
        """Read the newest state, if any, and restore the model to it."""
        if process_index() == 0:
            try:
                self._generations.prepare()
            except OSError as error:
                raise ValueError(
                    "`backup_dir` must be a folder that can be written to. "
                    f"Received: backup_dir={self._folder}: {error}"
                ) from error
        if not self.model.built:
            raise ValueError(
                "`model` must be built before `fit` if it is backed up: give "
                "it a `keras.Input`, or call it on a batch of data. "
                f"Received: model={self.model!r}"
            )
        build_optimizer(self.model)
        finished = self._folder.resolve() in record_of(self.model).finished
        if finished and self._generations.paths():
            raise ValueError(
                "`backup_dir` must be a folder for a single `fit`. Received: "
                f"backup_dir={self._folder}, where this model has already "
                "finished one. Use another folder, or delete it"
            )
        try:
            state = self._generations.read()
        except UnreadableError as error:
            raise ValueError(
                "`backup_dir` must hold a state that can be read, or none. "
                f"Received: backup_dir={self._folder}: {error}. Delete the "
                "folder to start again"
            ) from error
        check_processes(self._folder, state)
        if state is None:
            return None
        epochs = self.params["epochs"]
        check_state(self._folder, state, self._run(), epochs, self.model)
        if state["epoch"] < epochs and (state["epoch"] or state["batch"]):
            self._fit.warn_if_unknown(
                self.model,
                "other callbacks start over, and so does the order of an "
                "`EpochData`",
            )
        set_training(self.model, state["training"])
        # Others are set later, because their `on_train_begin` may follow.
        set_callbacks(self._resumables, state["resumables"])
        for callback in self._beside:
            if isinstance(callback, keras.callbacks.CSVLogger):
                callback.append = True
        begin_at(self.model, state["epoch"])
        self._done = state["epoch"]
        self._failure.warn()
        self._print(
            messages.resumed(
                self._folder, state["epoch"], state["batch"], epochs
            )
        )
        return state

    def _others(self):
        return [c for c in self._beside if not isinstance(c, Resumable)]

    def _run(self):
        """Return facts that a run shares with the state it resumes."""
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
            "history": read_history(self.model.history),
            "history_epochs": self.model.history.epoch,
            "random": read_random_states(),
            "random_at_epoch": self._random_at_epoch,
        }
        if not failures.all_finite(self.model):
            reason = f"in epoch {epoch + 1} a weight is not finite"
            failures.stop(self.model, reason)
            return
        if process_index() > 0:
            return
        try:
            self._generations.write(state)
        except OSError as error:
            warnings.warn(
                f"No backup could be written to {self._folder}: {error}. "
                "Training continues; the previous backup is unchanged.",
                stacklevel=2,
            )
            return
        self._failure.remove()

    def _set_others(self, state):
        """Restore what `on_train_begin` of other callbacks has reset."""
        set_callbacks(self._others(), state["callbacks"])
        history = self.model.history
        history.epoch = list(state["history_epochs"])
        history.history = {k: list(v) for k, v in state["history"].items()}

    def _go_on(self):
        """Continue once the batches before the backup have been drawn."""
        self._skipping = None
        self._saved_at = self._to_finish["batch"]
        set_random_states(self._to_finish["random"])

    def _finish(self):
        """Finish the skipping that began in the middle of an epoch."""
        if self._skipping is not None:  # There were fewer batches this time.
            stop_skipping(self.model)
            self._skipping = None
        if self._to_finish is not None:
            # They have counted the skipped batches.
            set_callbacks(self._others(), self._to_finish["callbacks"])
            self._to_finish = None

    def _batches_done(self):
        done = self._batch + self.model.steps_per_execution
        return min(done, self.params.get("steps") or done)

    def _act(self):
        if self._interrupts.asked is not None:
            self._finish()
            self._say_incomplete()
            self._interrupts.act()

    def _say_incomplete(self):
        target = self._run().get("target_sparsity")
        self._print(
            messages.incomplete(
                self.model, self._done, self.params["epochs"], target
            )
        )

    def _print(self, text):
        if self.verbose and process_index() == 0:
            print(text)

    @property
    def _folder(self):
        return self._generations.folder


def check_places(callbacks: list) -> None:
    """Raise ValueError if a callback is wrongly listed after a `Backup`."""
    from_backup_on = itertools.dropwhile(
        lambda callback: not isinstance(callback, Backup), callbacks
    )
    for callback in from_backup_on:
        if isinstance(callback, Resumable) and callback.leads:
            raise ValueError(
                "`Backup` must be listed after the callbacks of "
                f"`keras_bimp.callbacks`. Received: {type(callback).__name__} "
                "after it"
            )
