"""ONNX and OpenVINO: graphs made of the plain operations of TensorFlow."""

import errno
import functools
import os
import pathlib
import shutil
import tempfile
import warnings

import keras
import numpy as np

from keras_bimp.exporting import saved_model
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
        _teach_erfc()
        try:
            model.export(str(path), format="onnx", verbose=False)
        except OSError:
            raise
        except Exception as error:
            raise _cannot("onnx", error) from error


def write_openvino(
    model: keras.Model, path: pathlib.Path, options: Options
) -> None:
    """Writes an `.xml` and a `.bin` file, on the TensorFlow backend."""
    import openvino

    # Not `model.export`: it converts the function itself, of which attention
    # has outputs that are not the model's, and LSTM cannot be converted.
    with tempfile.TemporaryDirectory() as folder:
        saved_model.write(model, pathlib.Path(folder, "1"), Options())
        try:
            graph = openvino.convert_model(str(pathlib.Path(folder, "1")))
        except Exception as error:
            raise _cannot("openvino", error) from error
        try:
            openvino.serialize(graph, str(path))
        except RuntimeError as error:  # It does not say more.
            full = shutil.disk_usage(path.parent).free < _PAGE
            code = errno.ENOSPC if full else errno.EIO
            raise OSError(code, os.strerror(code)) from error


def _cannot(format, error):
    said = str(error).strip().splitlines() or [repr(error)]
    return ValueError(
        f"`model` must be one that can be converted to format={format!r}. "
        f"Received: a model of which the converter says: {said[-1]}"
    )


@functools.cache
def _teach_erfc():
    """Tells tf2onnx of 1 - erf, of which TensorFlow makes an exact GELU."""
    from tf2onnx.handler import tf_op

    @tf_op("Erfc")
    class Erfc:
        @classmethod
        def version_9(cls, context, node, **kwargs):
            dtype = context.get_dtype(node.output[0])
            shape = context.get_shape(node.output[0])
            erf = context.make_node(
                "Erf", node.input, shapes=[shape], dtypes=[dtype]
            )
            one = context.make_const(f"{node.name}_one", np.array(1, "float32"))
            context.remove_node(node.name)
            context.make_node(
                "Sub",
                [one.output[0], erf.output[0]],
                outputs=node.output,
                name=node.name,
                shapes=[shape],
                dtypes=[dtype],
            )


# Less than that is left on a full disk, in bytes.
_PAGE = 1 << 12
