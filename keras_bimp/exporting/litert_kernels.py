"""What a `.tflite` file does with each kernel, as read from the file."""

import math
import pathlib

from keras_bimp.exporting.sparse_kernels import KernelChoice
from keras_bimp.exporting.sparse_kernels import SparseKernels

_MULTIPLYING = ("FULLY_CONNECTED", "CONV_2D", "BATCH_MATMUL")


def kernels_of(path: pathlib.Path) -> SparseKernels:
    """Says of each kernel whether the file has a sparse kernel for it.

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
        densified = {}
        for node in map(graph.Operators, range(graph.OperatorsLength())):
            code = model.OperatorCodes(node.OpcodeIndex())
            # Small codes are where old readers look for them.
            name = operations[
                max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            ]
            inputs = node.InputsAsNumpy()
            if name == "DENSIFY":
                densified[node.Outputs(0)] = inputs[0]
            elif name in _MULTIPLYING and len(inputs) > 1:
                tensor = graph.Tensors(densified.get(inputs[1], inputs[1]))
                if inputs[1] in densified or _bytes(model, tensor):
                    choices.append(
                        _choice(model, tensor, inputs[1] in densified)
                    )
    return SparseKernels(tuple(choices))


def _choice(model, tensor, densified):
    shape = tuple(tensor.ShapeAsNumpy().tolist())
    packed = tensor.Sparsity() is not None
    stored = _bytes(model, tensor) / 4  # In 32 bits, or it is not packed.
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
