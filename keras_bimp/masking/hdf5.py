"""Refuses a whole wrapped model in one HDF5 file, which would lose masks."""

import inspect
import os

from keras_bimp.keras_internals.saving import saves_legacy


def refuse_hdf5_path(filepath) -> None:
    """Raises ValueError if a path is that of a whole model in HDF5."""
    if str(filepath).endswith((".h5", ".hdf5")):
        _refuse(filepath)


def refuse_hdf5_config() -> None:
    """Raises ValueError if Keras writes such a file now, and removes it.

    `keras.saving.save_model` opens the file before it asks the model for
    anything.
    """
    if not saves_legacy():
        return
    _refuse(_take_back(inspect.currentframe()))


def _take_back(frame):
    """Removes the file that a caller has opened; returns its path."""
    while frame is not None:
        if frame.f_code.co_name == "save_model_to_hdf5":
            found = frame.f_locals
            if found.get("opened_new_file"):
                found["f"].close()  # Closing it again does no harm.
                os.remove(found["filepath"])
            return found["filepath"]
        frame = frame.f_back
    return "a file in the legacy format of HDF5"


def _refuse(filepath):
    raise ValueError(
        "`filepath` must not be an HDF5 file of a whole wrapped model, which "
        "would hold no masks: save a '.keras' file, or "
        "`keras_bimp.strip(model)`. "
        f"Received: filepath={filepath}"
    )
