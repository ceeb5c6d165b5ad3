"""ONNX and OpenVINO: graphs of the plain operations of TensorFlow."""

import errno
import os
import pathlib
import shutil
import warnings

import keras

from keras_bimp.exporting.inputs import outputs_of
from keras_bimp.exporting.inputs import random_inputs
from keras_bimp.exporting.options import Options


def write_onnx(
    model: keras.Model, path: pathlib.Path, options: Options
) -> None:
    """Writes an `.onnx` file with tf2onnx, on the TensorFlow backend."""
    outputs_of(model, random_inputs(model))  # Keras refuses a loaded model.
    with warnings.catch_warnings():
        # Of Keras, which makes tf2onnx run on NumPy 2.
        warnings.simplefilter("ignore")
        _export(model, path, "onnx")


def write_openvino(
    model: keras.Model, path: pathlib.Path, options: Options
) -> None:
    """Writes an `.xml` and a `.bin` file, on the TensorFlow backend."""
    _export(model, path, "openvino")


def _export(model, path, format):
    try:
        model.export(str(path), format=format, verbose=False)
    except (OSError, ImportError):
        raise
    except Exception as error:
        if "iostream" in str(error):  # OpenVINO does not say more.
            full = not shutil.disk_usage(path.parent).free
            code = errno.ENOSPC if full else errno.EIO
            raise OSError(code, os.strerror(code)) from error
        raise ValueError(
            f"`model` must be one that can be converted to format='{format}'. "
            f"Received: a model of which the converter says: {error}"
        ) from error
