"""ONNX and OpenVINO, converted from plain TensorFlow operations."""

import contextlib
import errno
import functools
import logging
import os
import pathlib
import shutil
import tempfile
import warnings

import keras
import numpy as np
from keras import tree

from keras_bimp._src.exporting import saved_model
from keras_bimp._src.exporting.options import Options
from keras_bimp._src.exporting.remedies import remedy_of_quantized
from keras_bimp._src.foreign_errors import told
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.keras_internals.saving import get_input_signature
from keras_bimp._src.keras_internals.saving import make_tf_tensor_spec
from keras_bimp._src.keras_internals.saving import patch_tf2onnx
from keras_bimp._src.name_lists import listed


def write_onnx(
    model: keras.Model, path: pathlib.Path, options: Options
) -> None:
    """Writes an `.onnx` file with tf2onnx, on the TensorFlow backend."""
    _teach_tf2onnx()
    with _quiet():
        try:
            _convert_to_onnx(model, path)
            unknown = _unknown(path)
            if unknown:
                # Keras compiles some convolutions, such as grouped ones.
                with _functions_inlined():
                    _convert_to_onnx(model, path)
                unknown = _unknown(path)
        except OSError:
            raise
        except Exception as error:
            raise _cannot(model, "onnx", told(error)) from error
    if unknown:
        raise _cannot(model, "onnx", f"ONNX has no {', '.join(unknown)}")


def _convert_to_onnx(model, path):
    """Writes an `.onnx` file.

    `model.export` is not used: tf2onnx turns each tensor that a model holds
    and that is not a variable, such as a table of positions, into an input.
    """
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    patch_tf2onnx()
    signature = tree.map_structure(
        make_tf_tensor_spec, get_input_signature(model)
    )
    function = saved_model.traced(model, signature)
    computed = function.get_concrete_function()
    frozen = convert_variables_to_constants_v2(
        computed, lower_control_flow=False, aggressive_inlining=True
    )

    @tf.function(input_signature=signature, autograph=False)
    def without_captures(*args):
        outputs = frozen(*tf.nest.flatten(args))
        return tf.nest.pack_sequence_as(computed.structured_outputs, outputs)

    # Any further inputs are lookup tables.
    if len(frozen.inputs) == len(tf.nest.flatten(signature)):
        function = without_captures
    tf2onnx.convert.from_function(function, signature, output_path=str(path))


def write_openvino(
    model: keras.Model, path: pathlib.Path, options: Options
) -> None:
    """Writes an `.xml` and a `.bin` file, on the TensorFlow backend."""
    import openvino

    # Not `model.export`: it converts the function directly, which adds
    # outputs for attention and fails for LSTM.
    with tempfile.TemporaryDirectory() as folder:
        saved_model.write(model, pathlib.Path(folder, "1"), Options())
        try:
            graph = openvino.convert_model(str(pathlib.Path(folder, "1")))
        except Exception as error:
            raise _cannot(model, "openvino", told(error)) from error
        try:
            openvino.serialize(graph, str(path))
        except RuntimeError as error:  # It gives no reason.
            full = shutil.disk_usage(path.parent).free < _PAGE
            code = errno.ENOSPC if full else errno.EIO
            raise OSError(code, os.strerror(code)) from error


@contextlib.contextmanager
def _quiet():
    logger = logging.getLogger("tf2onnx.tfonnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # Errors are raised.
    try:
        with warnings.catch_warnings():
            # From Keras, which patches tf2onnx for NumPy 2.
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _functions_inlined():
    """Inlines nested TensorFlow functions within this context."""
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _unknown(path):
    """Lists operations not in ONNX, which tf2onnx leaves in the file."""
    import onnx

    def nodes(graph):
        for node in graph.node:
            yield node
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    yield from nodes(inner)

    graph = onnx.load(path, load_external_data=False).graph
    return sorted(
        {
            node.op_type
            for node in nodes(graph)
            if not onnx.defs.has(node.op_type, node.domain)
        }
    )


def _cannot(model, format, said):
    if tables := saved_model.remedy_of_tables(model):
        remedy = tables
    elif stateful := [
        f"'{layer.name}'"
        for layer in layers_in(model)
        if getattr(layer, "stateful", False)
    ]:
        remedy = (
            f"with {listed(stateful)}, which keeps its state from batch to "
            "batch. Build the model with `stateful=False`, and copy the "
            "weights: `other.set_weights(model.get_weights())`"
        )
    else:
        remedy = f"that the converter rejects: {said}"
    return ValueError(
        f"`model` must be convertible to format={format!r}. "
        f"Received: a model {remedy}{remedy_of_quantized(model, format)}"
    )


@functools.cache
def _teach_tf2onnx():
    """Registers two conversions that tf2onnx lacks.

    They are 1 - erf, which TensorFlow uses for an exact GELU, and
    three-dimensional convolutions with groups.
    """
    from tf2onnx.handler import tf_op
    from tf2onnx.onnx_opset.nn import ConvOp
    from tf2onnx.utils import map_onnx_to_numpy_type

    @tf_op("Conv3D")
    class Conv3D:
        @classmethod
        def version_13(cls, context, node, **kwargs):
            shape = context.get_shape(node.input[0])
            last = node.attr["data_format"].s == b"NDHWC"
            channels = shape[-1 if last else 1] if shape else -1
            of_a_group = context.get_shape(node.input[1])[-2]
            ConvOp.version_13(context, node, **kwargs)
            if channels > 0 and of_a_group > 0:
                node.set_attr("group", channels // of_a_group)

    @tf_op("Erfc")
    class Erfc:
        @classmethod
        def version_9(cls, context, node, **kwargs):
            dtype = context.get_dtype(node.output[0])
            shape = context.get_shape(node.output[0])
            erf = context.make_node(
                "Erf", node.input, shapes=[shape], dtypes=[dtype]
            )
            kind = map_onnx_to_numpy_type(dtype)
            one = context.make_const(f"{node.name}_one", np.array(1, kind))
            context.remove_node(node.name)
            context.make_node(
                "Sub",
                [one.output[0], erf.output[0]],
                outputs=node.output,
                name=node.name,
                shapes=[shape],
                dtypes=[dtype],
            )


# A disk with fewer free bytes counts as full.
_PAGE = 1 << 12
