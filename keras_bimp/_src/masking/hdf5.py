"""Refuse to save a whole wrapped model as HDF5, which would lose masks."""

from keras_bimp._src.keras_internals.saving import saves_legacy


def refuse_hdf5_path(filepath) -> None:
    """Raise ValueError if a path names a whole model in HDF5."""
    if str(filepath).endswith((".h5", ".hdf5")):
        _refuse(f"filepath={filepath}")


def refuse_hdf5_config() -> None:
    """Raise ValueError if Keras wants a config for an HDF5 file.

    By then `keras.saving.save_model` has opened the file and leaves it empty.
    """
    if saves_legacy():
        _refuse("a legacy HDF5 file, which is left empty")


def _refuse(received):
    raise ValueError(
        "`filepath` must not be an HDF5 file, which cannot hold the masks of a "
        "wrapped model: save a '.keras' file, or "
        f"`keras_bimp.strip(model)`. Received: {received}"
    )
