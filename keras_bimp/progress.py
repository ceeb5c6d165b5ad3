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
        sparsity: What was reached, in [0, 1].
        target_sparsity: What was planned.
    """

    done: int
    epochs: int
    sparsity: float
    target_sparsity: float

    def __str__(self):
        complete = self.done >= self.epochs
        return (
            f"{'Complete' if complete else 'Incomplete'}: {self.done} of "
            f"{self.epochs} epochs are done, sparsity {self.sparsity:.2%} of "
            f"{self.target_sparsity:.2%}."
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
