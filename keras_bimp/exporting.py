"""Export to the formats that are deployed."""

import pathlib

import keras
from keras.src.export.export_utils import get_input_signature

from keras_bimp.checks import check_choice
from keras_bimp.masking import masked_layers


def export(
    model: keras.Model,
    filepath: str | pathlib.Path,
    format: str = "tf_saved_model",
) -> pathlib.Path:
    """Exports a pruned model for serving.

    The result needs TensorFlow alone: no Keras and no keras_bimp. Its
    signature `serving_default` takes batches of any size.

    Args:
        model: A plain Keras model, such as `strip` returns.
        filepath: Where to write. For a SavedModel the version folder that
            TensorFlow Serving looks for: its last part is an integer, as in
            `"saved_model/1"`.
        format: `"tf_saved_model"`.

    Returns:
        The path that was written.

    Raises:
        ValueError: If the model is wrapped or not built, the last part of
            `filepath` is not an integer, or `filepath` exists.

    Example:

    ```python
    keras_bimp.export(keras_bimp.strip(model), "saved_model/1")
    ```
    """
    check_choice("format", format, _FORMATS)
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            f"`model` must be a built keras.Model. Received: model={model!r}"
        )
    if masked_layers(model):
        raise ValueError(
            "`model` must be stripped first: "
            "`keras_bimp.export(keras_bimp.strip(model), ...)`. "
            f"Received: model={model!r}"
        )
    filepath = pathlib.Path(filepath)
    if filepath.exists():
        raise ValueError(
            f"`filepath` must not exist. Received: filepath={str(filepath)!r}"
        )
    _FORMATS[format](model, filepath)
    return filepath


def _saved_model(model, filepath):
    if not filepath.name.isdigit():
        raise ValueError(
            "`filepath` must end in an integer, the version that TensorFlow "
            f"Serving looks for. Received: filepath={str(filepath)!r}"
        )
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "A SavedModel is written with the TensorFlow backend. Received: "
            f"backend '{keras.backend.backend()}'. Save the model as `.keras`, "
            "and load and export it with KERAS_BACKEND=tensorflow"
        )
    # Not `model.export`: it tracks the model too and writes every weight
    # twice (keras-team/keras#23553).
    archive = keras.export.ExportArchive()
    archive.add_endpoint("serve", model.__call__, get_input_signature(model))
    archive.write_out(filepath, verbose=False)


_FORMATS = {"tf_saved_model": _saved_model}
