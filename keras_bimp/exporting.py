"""Export to the formats that are deployed."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import keras
from keras.src.export.export_utils import get_input_signature

from keras_bimp.backends import backend
from keras_bimp.checks import check_choice
from keras_bimp.failures import all_finite
from keras_bimp.failures import why_failed
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
        ValueError: If the model is wrapped or not built, a weight is not
            finite or its training failed, the last part of `filepath` is not
            an integer, or `filepath` exists.

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
    reason = why_failed(model)
    if reason is None and not all_finite(model):
        reason = "a weight is not finite"
    if reason is not None:
        raise ValueError(
            "`model` must not be one whose training failed. Received: "
            f"{reason}. Train it again, or load good weights into a new model"
        )
    filepath = pathlib.Path(filepath)
    if filepath.exists():
        raise ValueError(
            f"`filepath` must not exist. Received: filepath={str(filepath)!r}"
        )
    if not filepath.name.isdigit():
        raise ValueError(
            "`filepath` must end in an integer, the version that TensorFlow "
            f"Serving looks for. Received: filepath={str(filepath)!r}"
        )
    # Whoever serves the folder never sees half a version.
    unfinished = filepath.with_name(f"{filepath.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        _FORMATS[format](model, unfinished)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    os.rename(unfinished, filepath)
    return filepath


def _saved_model(model, filepath):
    if backend() != "tensorflow":
        _with_tensorflow(model, filepath)
        return
    # Not `model.export`: it tracks the model too and writes every weight
    # twice (keras-team/keras#23553).
    archive = keras.export.ExportArchive()
    for layer in model._flatten_layers():
        if isinstance(layer, _WITH_TABLES):
            archive.track(layer.lookup_table)
    archive.add_endpoint("serve", model.__call__, get_input_signature(model))
    archive.write_out(filepath, verbose=False)


# What another Python runs, with the TensorFlow backend.
_EXPORT = """
import sys
import keras
import keras_bimp

model = keras.models.load_model(sys.argv[1], compile=False)
keras_bimp.export(model, sys.argv[2])
"""


def _with_tensorflow(model, filepath):
    """Exports in a process of its own that uses the TensorFlow backend.

    Under JAX a SavedModel would be one opaque operation, which runtimes other
    than TensorFlow cannot read.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, written = pathlib.Path(folder, "model.keras"), f"{folder}/1"
        model.save(path)
        here = [str(pathlib.Path(__file__).parent.parent), *sys.path]
        done = subprocess.run(
            [sys.executable, "-c", _EXPORT, str(path), written],
            env={
                **os.environ,
                "KERAS_BACKEND": "tensorflow",
                "CUDA_VISIBLE_DEVICES": "",  # This process may hold it all.
                "PYTHONPATH": os.pathsep.join(filter(None, here)),
            },
            capture_output=True,
            text=True,
        )
        if not done.returncode:
            shutil.move(written, filepath)
            return
    said = done.stderr.strip().splitlines() or ["nothing"]
    raise ValueError(
        "A SavedModel is written by TensorFlow, in a process of its own that "
        "loads the model: TensorFlow must be installed, and the model must "
        "load without the classes of this program. Received: backend "
        f"'{backend()}', and there: {said[-1]}"
    )


# Layers that look strings or integers up in tables of TensorFlow.
_WITH_TABLES = (
    keras.layers.IntegerLookup,
    keras.layers.StringLookup,
)
_FORMATS = {"tf_saved_model": _saved_model}
