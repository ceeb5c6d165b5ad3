"""Refuses sparse `.tflite` files that 64-bit Arm computes wrongly."""

import math
import pathlib

# How a network that XNNPACK may run by its sparse kernels begins.
_BEGINNING = ("PAD", "CONV_2D")


def check_sparse_on_arm(path: pathlib.Path) -> None:
    """Raises if LiteRT's sparse convolutions would return other outputs.

    On 64-bit Arm, and not on x86, LiteRT multiplies by the packed 1x1 kernels
    of a network that begins with an explicitly padded convolution. Its
    depthwise convolutions are then padded evenly on both sides, which is not
    what `padding="same"` means with strides and an even size. Seen with
    ai-edge-litert 2.3.0.

    Args:
        path: A `.tflite` file.

    Raises:
        ValueError: If the file has all three.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    names = {
        code: name
        for name, code in vars(schema.BuiltinOperator).items()
        if isinstance(code, int)
    }
    for graph in model.subgraphs:
        operators = [
            (names[_code(model.operatorCodes[op.opcodeIndex])], op)
            for op in graph.operators
        ]
        densified = {
            op.outputs[0] for name, op in operators if name == "DENSIFY"
        }
        begins = [name for name, _ in operators if name != "DENSIFY"][:2]
        sparse = any(
            op.inputs[1] in densified
            and tuple(graph.tensors[op.inputs[1]].shape[1:3]) == (1, 1)
            for name, op in operators
            if name == "CONV_2D"
        )
        if tuple(begins) != _BEGINNING or not sparse:
            continue
        for name, op in operators:
            if name == "DEPTHWISE_CONV_2D" and _uneven(graph, op, schema):
                raise ValueError(
                    "`sparse_tensors` must be False for a network that begins "
                    "with an explicitly padded convolution and has a "
                    "depthwise one with strides and padding='same': LiteRT "
                    "pads that differently on 64-bit Arm, and its outputs are "
                    "wrong there. Use `ZeroPadding2D` and padding='valid' in "
                    "both. Received: sparse_tensors=True, with depthwise "
                    f"inputs of shape {_shape(graph, op.inputs[0])}"
                )


def _code(code):
    # Small codes are where old readers look for them.
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def _shape(graph, index):
    return tuple(int(size) for size in graph.tensors[index].shape)


def _uneven(graph, op, schema):
    options = op.builtinOptions
    if options.padding != schema.Padding.SAME:
        return False
    sizes = _shape(graph, op.inputs[0])[1:3]
    windows = _shape(graph, op.inputs[1])[1:3]
    strides = (options.strideH, options.strideW)
    return any(
        (max((math.ceil(n / s) - 1) * s + k - n, 0)) % 2
        for n, k, s in zip(sizes, windows, strides, strict=True)
    )
