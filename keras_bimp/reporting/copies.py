"""A plain copy of a model, to be saved, timed and thrown away."""

import pathlib

import keras

from keras_bimp.masking import masked_layers
from keras_bimp.masking import strip


def plain_copy(model: keras.Model, folder: pathlib.Path) -> keras.Model:
    """What `strip` would return, without an optimizer, as a new model.

    Args:
        model: A built model: plain, wrapped or stripped. It is left as it is.
        folder: An empty folder for files of no further use.

    Returns:
        A `keras.Model` that is not compiled.

    Raises:
        ValueError: If the model cannot be saved and loaded.
    """
    path = folder / "copy.keras"
    try:
        model.save(path)
        # It was just written: what is in it was there before.
        copy = keras.saving.load_model(path, compile=False, safe_mode=False)
    except Exception as error:
        raise ValueError(
            f"the model cannot be saved and loaded: {_first_line(error)}"
        ) from error
    finally:
        path.unlink(missing_ok=True)
    return strip(copy) if masked_layers(copy) else copy


def _first_line(error):
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
