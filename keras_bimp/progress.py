"""How far the last training of a model came."""

import weakref
from typing import NamedTuple

import keras

from keras_bimp.masking import MaskedModel

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
    """

    done: int
    epochs: int
    pruned: int
    weights: int
    target_sparsity: float | None
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether all epochs are done."""
        return self.done >= self.epochs

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
