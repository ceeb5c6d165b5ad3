"""Reads from a `.tflite` file which kernels are sparse."""

import math
import pathlib

from keras_bimp._src.exporting.sparse_kernels import KernelChoice
from keras_bimp._src.exporting.sparse_kernels import SparseKernels

_MULTIPLYING = ("FULLY_CONNECTED", "CONV_2D", "BATCH_MATMUL")
# Type code -> bytes: float32, float16, and int8.
_SIZES = {0: 4, 1: 2, 9: 1}


def kernels_of(path: pathlib.Path) -> SparseKernels:
    """Returns for each kernel whether the file stores and uses it as sparse.

    Args:
        path: A `.tflite` file.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    operations = {
        code: name
        for name, code in vars(schema.BuiltinOperator).items()
        if isinstance(code, int)
    }
    choices = []
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        constants, densified = {}, set()
        for node in map(graph.Operators, range(graph.OperatorsLength())):
            code = model.OperatorCodes(node.OpcodeIndex())
            # Small codes are stored in the field for old readers.
            name = operations[
                max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            ]
            inputs = node.InputsAsNumpy()
            if name in ("DENSIFY", "DEQUANTIZE"):
                output = node.Outputs(0)
                constants[output] = constants.get(inputs[0], inputs[0])
                if name == "DENSIFY" or inputs[0] in densified:
                    densified.add(output)
            elif name in _MULTIPLYING and len(inputs) > 1:
                tensor = graph.Tensors(constants.get(inputs[1], inputs[1]))
                if _bytes(model, tensor):
                    choices.append(
                        _choice(model, tensor, inputs[1] in densified)
                    )
    return SparseKernels(tuple(choices))


def _choice(model, tensor, densified):
    shape = tuple(tensor.ShapeAsNumpy().tolist())
    packed = tensor.Sparsity() is not None
    stored = _bytes(model, tensor) / _SIZES.get(tensor.Type(), 1)
    if densified:
        reason = "DENSIFY unpacks it when the file is loaded"
    else:
        reason = "" if packed else "not packed in the file"
    return KernelChoice(
        tensor.Name().decode(),
        shape,
        1 - stored / math.prod(shape) if packed else 0.0,
        packed and not densified,
        reason,
    )


def _bytes(model, tensor):
    return model.Buffers(tensor.Buffer()).DataLength()
