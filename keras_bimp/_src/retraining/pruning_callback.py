"""The base class of callbacks that prune during `fit`."""

from keras_bimp._src import failures
from keras_bimp._src.backends import give_each_its_own_buffer
from keras_bimp._src.backup import Backup
from keras_bimp._src.backup import Resumable
from keras_bimp._src.backup.training_state import build_optimizer
from keras_bimp._src.fitting import fit_of
from keras_bimp._src.fitting import leave
from keras_bimp._src.keras_internals.optimizer_state import add_state
from keras_bimp._src.keras_internals.optimizer_state import remove_state
from keras_bimp._src.masking import copy_masks
from keras_bimp._src.masking import drop_copies
from keras_bimp._src.masking import hold_zeros
from keras_bimp._src.model_record import Progress
from keras_bimp._src.model_record import record_of
from keras_bimp._src.retraining.callback_checks import check_others
from keras_bimp._src.retraining.own_optimizers import Steps
from keras_bimp._src.slots import chain
from keras_bimp._src.strategies import check_strategy


class Leader(Resumable):
    """Base class for callbacks that prune during `fit`.

    Subclasses define what to prune, when and how far.

    Args:
        verbose: 0 or 1.
    """

    def __init__(self, verbose: int):
        super().__init__()
        self._verbose = verbose

    def begin(self) -> None:
        """Check everything before anything changes.

        Sets `_found`, the `Targets`, and `_held`, the argument of
        `hold_zeros`.
        """
        raise NotImplementedError

    def install(self) -> list | None:
        """Prepare the model, whose optimizer is built.

        Returns:
            Variables to pass to the JAX train step; `None` if an already
            compiled train step can be used in this `fit`.
        """

    def uninstall(self) -> None:
        """Undo `install`, if it ran."""

    def begin_epoch(self, epoch: int) -> None:
        """Prune, if this epoch begins with a pruning."""
        raise NotImplementedError

    def end_epoch(self, epoch: int, logs: dict) -> None:
        """Run the work at the end of an epoch; add to `logs`."""
        raise NotImplementedError

    def progress(self) -> Progress:
        """Return the progress of the training."""
        raise NotImplementedError

    def on_train_begin(self, logs=None):
        check_strategy(self.model)
        self._fit = fit_of(self)
        check_others(self, self._fit.callbacks, Leader)
        failures.mark_failed(self.model, None)
        self._done = 0
        try:
            self.begin()
            self._steps = Steps(self.model)
            self._install()
        except BaseException:
            self._fit.undo()
            raise
        self.note_progress()

    def on_epoch_begin(self, epoch, logs=None):
        self._fit.begin_epoch(epoch)
        self.begin_epoch(epoch)

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        self._done = epoch + 1
        if any(name.startswith("val_") for name in logs):
            self._fit.warn_if_unknown(
                self.model,
                "the metrics around prunings are not logged, and callbacks "
                "that keep the best epoch may keep one from before a pruning",
            )
        self._fit.end_epoch(self.model, epoch, logs)
        try:
            self._steps.check(self.model, self._found)
        except ValueError:
            self._fit.undo()
            raise
        self.end_epoch(epoch, logs)
        progress = self.note_progress()
        logs["sparsity"] = progress.pruned / progress.weights

    def on_train_end(self, logs=None):
        self._put_back()
        failures.settle(self.model)
        progress = self.note_progress()
        backed_up = any(isinstance(c, Backup) for c in self._fit.callbacks)
        if progress.is_news(backed_up):
            self._print(str(progress))
        leave(self)

    def note_progress(self) -> Progress:
        """Record the progress of the training."""
        record = record_of(self.model)
        record.progress = self.progress()
        return record.progress

    def _install(self):
        model = self.model
        build_optimizer(model)
        self._installed = True
        self._compiles = False
        self._fit.on_exit(self._put_back)
        state = self.install()
        held = hold_zeros(self._held)
        copies = copy_masks(self._held)
        self._compiles = held or bool(copies) or state is not None
        if state or copies:
            add_state(chain(model.optimizer), [*(state or []), *copies])
        give_each_its_own_buffer(model.variables + model.optimizer.variables)
        if self._compiles:
            model.make_train_function(force=True)

    def _put_back(self):
        if not self._installed:
            return
        self._installed = False
        remove_state(chain(self.model.optimizer))
        drop_copies(self._held)
        self.uninstall()
        if self._compiles:
            self.model.make_train_function(force=True)

    def _print(self, text):
        if self._verbose:
            print(text)
