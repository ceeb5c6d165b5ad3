"""Messages about resumed, incomplete and failed runs."""

import contextlib
import json
import os
import pathlib
import warnings

import keras

from keras_bimp._src.masking import masked_layers
from keras_bimp._src.metrics import sparsity


def resumed(folder: os.PathLike, epoch: int, batch: int, epochs: int) -> str:
    """Return a message that says where a run resumes."""
    if epoch == epochs and not batch:
        return (
            f"All {epochs} epochs were done in an earlier run: the model is "
            f"set to its result. Delete {folder} to train again."
        )
    return (
        f"Resumes at epoch {epoch + 1} of {epochs}, "
        f"after {batch} of its batches, from {folder}."
    )


def incomplete(
    model: keras.Model, done: int, epochs: int, target: float | None
) -> str:
    """Return a message about an unfinished run and the model's sparsity.

    Args:
        model: The current model.
        done: Integer, number of finished epochs.
        epochs: Integer, number of planned epochs.
        target: Float, the final sparsity of the plan, or `None`.
    """
    text = f"{done} of {epochs} epochs are done"
    if masked_layers(model):
        text += f", sparsity {sparsity(model).prunable:.2%}"
        text += "" if target is None else f" of {target:.2%}"
    return f"Incomplete: {text}. The same `fit` resumes from here."


class FailureNote:
    """A file that says why the last run in a folder failed.

    Args:
        folder: Path of the folder.
    """

    def __init__(self, folder: str | os.PathLike):
        self._path = pathlib.Path(folder) / "failure.json"

    def write(self, reason: str) -> None:
        """Write the reason, if possible."""
        with contextlib.suppress(OSError):
            self._path.write_text(json.dumps({"reason": reason}))

    def remove(self) -> None:
        """Remove the file, because a run has made progress since."""
        self._path.unlink(missing_ok=True)

    def warn(self) -> None:
        """Warn about the failure, if there was one."""
        if not self._path.exists():
            return
        try:
            reason = json.loads(self._path.read_text())["reason"]
        except (OSError, ValueError, KeyError, TypeError):
            reason = "the reason is unknown"
        warnings.warn(
            f"The previous run failed: {reason}. This one resumes from the "
            "last good state.",
            stacklevel=2,
        )
