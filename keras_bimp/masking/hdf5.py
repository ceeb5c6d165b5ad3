"""Refuses a whole wrapped model in one HDF5 file, which would lose masks."""

from keras_bimp.keras_internals.saving import saves_legacy
from keras_bimp.keras_internals.saving import take_back_hdf5


def refuse_hdf5_path(filepath) -> None:
    """Raises ValueError if a path is that of a whole model in HDF5."""
    if str(filepath).endswith((".h5", ".hdf5")):
        _refuse(filepath)


def refuse_hdf5_config() -> None:
    """Raises ValueError if Keras writes such a file now, and removes it.

    `keras.saving.save_model` opens the file before it asks the model for
    anything.
    """
    if saves_legacy():
        _refuse(take_back_hdf5() or "a file in the legacy format of HDF5")


def _refuse(filepath):
    raise ValueError(
        "`filepath` must not be an HDF5 file of a whole wrapped model, which "
        "would hold no masks: save a '.keras' file, or "
        "`keras_bimp.strip(model)`. "
        f"Received: filepath={filepath}"
    )
