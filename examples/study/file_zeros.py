"""Counts the zeros of kernels in the files themselves.

`.keras` and packed files are loaded, and what their layers compute with is
counted. In the others it is what is stored: of codes with a zero point in
LiteRT, those that equal it. Where two codes are in a byte, each is looked at,
but their zero may be any number: which one it is, only the graph knows.
"""

import keras
import numpy as np

import keras_bimp


def share_of_zeros(format, path, kernel_sizes):
    """The share of zeros in the kernels of a file.

    Args:
        format: A format of `export`, or ".keras".
        path: What was written.
        kernel_sizes: Numbers of entries of the model's kernels. Constants of
            as many entries, or half as many bytes, are counted.

    Returns:
        A number, NaN if there are none such.
    """
    if format in _LOADERS:
        model = _LOADERS[format](path)
        return keras_bimp.sparsity(model).prunable
    halves = {-(-size // 2) for size in kernel_sizes}
    zeros = total = 0
    for array in _READERS[format](path):
        if array.size not in kernel_sizes and array.size in halves:
            array = array.view(np.uint8)
            array = np.stack([array & 15, array >> 4])
        elif array.size not in kernel_sizes:
            continue
        zeros += np.count_nonzero(array == 0)
        total += array.size
    return zeros / total if total else float("nan")


def _saved_model(path):
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    for name in reader.get_variable_to_shape_map():
        if name.endswith("VARIABLE_VALUE"):
            yield from _numbers(reader.get_tensor(name))


def _litert(path):
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    types = schema.TensorType
    kinds = {
        types.FLOAT32: np.float32,
        types.FLOAT16: np.float16,
        types.INT8: np.int8,
        types.UINT8: np.uint8,
        types.INT4: np.int8,  # Two in a byte.
    }
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is None or not len(data) or tensor.type not in kinds:
                continue
            array = np.asarray(data, np.uint8).view(kinds[tensor.type])
            points = getattr(tensor.quantization, "zeroPoint", None)
            if points is not None and len(points) == 1:
                array = array.astype(np.int32) - points[0]
            yield array


def _onnx(path):
    import onnx

    graph = onnx.load(path).graph
    for tensor in graph.initializer:
        yield from _numbers(onnx.numpy_helper.to_array(tensor))


def _openvino(path):
    import openvino

    for operation in openvino.Core().read_model(path).get_ops():
        if operation.get_type_name() == "Constant":
            yield from _numbers(np.asarray(operation.data))


def _numbers(array):
    array = np.asarray(array)
    if array.dtype.kind in "biuf":
        yield np.ravel(array)


_LOADERS = {
    ".keras": lambda path: keras.models.load_model(path, compile=False),
    "packed": lambda path: keras_bimp.exporting.load_packed(path),
}
_READERS = {
    "tf_saved_model": _saved_model,
    "litert": _litert,
    "onnx": _onnx,
    "openvino": _openvino,
}
