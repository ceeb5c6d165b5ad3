"""Refuses a whole wrapped model in one HDF5 file, which would lose masks."""

from keras_bimp._src.keras_internals.saving import saves_legacy


def refuse_hdf5_path(filepath) -> None:
    """Raises ValueError if a path is that of a whole model in HDF5."""
    if str(filepath).endswith((".h5", ".hdf5")):
        _refuse(f"filepath={filepath}")


def refuse_hdf5_config() -> None:
    """Raises ValueError if Keras asks for a config to put in such a file.

    `keras.saving.save_model` has opened the file by then, and leaves it empty.
    """
    if saves_legacy():
        _refuse("a file in the legacy format of HDF5, which stays empty")


def _refuse(received):
    raise ValueError(
        "`filepath` must not be an HDF5 file of a whole wrapped model, which "
        "would hold no masks: save a '.keras' file, or "
        f"`keras_bimp.strip(model)`. Received: {received}"
    )
