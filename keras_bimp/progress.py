"""How far the last training of a model came."""

import weakref
from typing import NamedTuple

import keras

from keras_bimp.masking import MaskedModel

# Of a sparsity, where each kernel rounds its own share.
ROUNDING = 1e-3

_PROGRESS = weakref.WeakKeyDictionary()


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


def set_progress(model: keras.Model, progress: Progress | None) -> None:
    """Notes it for a model, and for what `strip` makes of it."""
    parts = [model]
    if isinstance(model, MaskedModel):
        parts.append(model.wrapper.layer)
    for part in parts:
        if progress is None:
            _PROGRESS.pop(part, None)
        else:
            _PROGRESS[part] = progress


def progress_of(model: keras.Model) -> Progress | None:
    """How far the last training came; `None` if there was none."""
    return _PROGRESS.get(model)
