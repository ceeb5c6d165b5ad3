"""Facts about a model besides its weights, one record per model."""

import dataclasses
import pathlib
import weakref
from typing import NamedTuple

import keras

# Tolerance of a sparsity, for kernels that each round their share.
ROUNDING = 1e-3

_RECORDS = weakref.WeakKeyDictionary()


class Progress(NamedTuple):
    """The progress of a training with a plan.

    Attributes:
        done: Finished epochs.
        epochs: Planned epochs.
        pruned: Number of pruned weights.
        weights: Number of prunable weights.
        target_sparsity: The planned sparsity, or `None`.
        skipped: Pairs (path, reason) of kernels that are not pruned.
        reached: Whether the target is reached; `None` to derive it from the
            weight counts, which works unless filters or blocks are counted.
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
        """Whether the target, if any, is reached."""
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
        """Return whether to report at the end of `fit` an incomplete run.

        If only epochs are missing, a backup reports it.
        """
        return not (self.complete or (backed_up and self.done < self.epochs))

    def after_pruning(self, pruned: int) -> "Progress":
        """Return the progress after more weights are pruned."""
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
    """Facts about a model, wrapped or not.

    A record does not keep its model alive.

    Attributes:
        model: Weak reference to the model; the plain one if it is wrapped.
        progress: Progress of the last training; `None` if there was none.
        failure: Why the last training failed, with a digest of the weights it
            applies to (`None` for any); or `None` if it did not fail.
        finished: Backup folders of the runs finished in this program.
        masked: Pairs (variable, weak reference to its layer) of the kernels
            that were masked before `strip`.
        skipped: Pairs (path, reason) of the kernels that were not.
        warned: Whether the hint to use `keras_bimp.fit` was given.
    """

    model: weakref.ref
    progress: Progress | None = None
    failure: tuple[str, str | None] | None = None
    finished: set[pathlib.Path] = dataclasses.field(default_factory=set)
    masked: tuple[tuple[keras.Variable, weakref.ref], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    warned: bool = False


def record_of(model: keras.Layer) -> Record:
    """Return the record of a model."""
    if model not in _RECORDS:
        _RECORDS[model] = Record(weakref.ref(model))
    return _RECORDS[model]


def share_record(wrapped: keras.Model, plain: keras.Layer) -> None:
    """Let a wrapped model share the record of the inner model."""
    _RECORDS[wrapped] = record_of(plain)


def progress_of(model: keras.Model) -> Progress | None:
    """Return the progress of the last training, or `None`."""
    return record_of(model).progress
