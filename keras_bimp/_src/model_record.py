"""What is known of a model beside its weights: one record for each."""

import dataclasses
import pathlib
import weakref
from typing import NamedTuple

import keras

# Of a sparsity, where each kernel rounds its own share.
ROUNDING = 1e-3

_RECORDS = weakref.WeakKeyDictionary()


class Progress(NamedTuple):
    """How far a training with a plan came.

    Args:
        done: Epochs that are done.
        epochs: Epochs that were planned.
        pruned: Weights that are pruned.
        weights: Weights that were to be pruned to the target.
        target_sparsity: What was planned; `None` if nothing was.
        skipped: Pairs (path, reason) of kernels that stay as they are.
        reached: Whether the target is reached; `None` if the numbers of
            weights tell, as where no filters or blocks are counted.
    """

    done: int
    epochs: int
    pruned: int
    weights: int
    target_sparsity: float | None
    skipped: tuple[tuple[str, str], ...] = ()
    reached: bool | None = None

    @property
    def at_target(self) -> bool:
        """Whether the target is reached, if there is one."""
        if self.reached is not None or self.target_sparsity is None:
            return self.reached is not False
        return self.pruned >= round(
            (self.target_sparsity - ROUNDING) * self.weights
        )

    @property
    def complete(self) -> bool:
        """Whether all epochs are done and the target is reached."""
        return self.done >= self.epochs and self.at_target

    def is_news(self, backed_up: bool) -> bool:
        """Whether to say at the end of `fit` that it is not complete.

        A backup says of the epochs that are left that they follow.
        """
        return not (self.complete or (backed_up and self.done < self.epochs))

    def after_pruning(self, pruned: int) -> "Progress":
        """What it is when more weights are pruned."""
        return self._replace(pruned=pruned, reached=self.reached or None)

    def __str__(self):
        target = ""
        if self.target_sparsity is not None:
            target = f" of {self.target_sparsity:.2%}"
        return (
            f"{'Complete' if self.complete else 'Incomplete'}: {self.done} of "
            f"{self.epochs} epochs are done, sparsity "
            f"{self.pruned / self.weights:.2%}{target} in "
            f"{self.weights:,} weights."
        )


@dataclasses.dataclass
class Record:
    """What is known of a model, wrapped or not.

    It does not keep the model alive.

    Attributes:
        model: Weak reference to the model, the plain one of a wrapped model.
        progress: How far the last training came; `None` if there was none.
        failure: Why the last training failed, and a digest of the weights of
            which that is true, `None` for any; or `None` if it did not.
        finished: Folders of the runs that it has had in this program.
        masked: Pairs (variable, weak reference to its layer) of the kernels
            that had a mask before `strip`.
        skipped: Pairs (path, reason) of those that had none.
        warned: Whether it was said what `keras_bimp.fit` is for.
    """

    model: weakref.ref
    progress: Progress | None = None
    failure: tuple[str, str | None] | None = None
    finished: set[pathlib.Path] = dataclasses.field(default_factory=set)
    masked: tuple[tuple[keras.Variable, weakref.ref], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    warned: bool = False


def record_of(model: keras.Layer) -> Record:
    """The record of a model."""
    if model not in _RECORDS:
        _RECORDS[model] = Record(weakref.ref(model))
    return _RECORDS[model]


def share_record(wrapped: keras.Model, plain: keras.Layer) -> None:
    """Gives a wrapped model the record of the one inside."""
    _RECORDS[wrapped] = record_of(plain)


def progress_of(model: keras.Model) -> Progress | None:
    """How far the last training came; `None` if there was none."""
    return record_of(model).progress
