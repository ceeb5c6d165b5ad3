"""Refuses sparse `.tflite` files that 64-bit Arm computes wrongly."""

import math
import pathlib

# How a network that XNNPACK may run by its sparse kernels begins.
_BEGINNING = ("PAD", "CONV_2D")


def check_sparse_on_arm(path: pathlib.Path) -> None:
    """Raises if LiteRT's sparse convolutions would return other outputs.

    On 64-bit Arm, but not on x86, LiteRT has sparse 1x1 convolutions. It uses
    them in a network that begins with an explicitly padded convolution and in
    which the first depthwise one is padded evenly. Then it pads all depthwise
    convolutions evenly, which is not what `padding="same"` means with strides
    and an even size. Seen with ai-edge-litert 2.3.0.

    Args:
        path: A `.tflite` file.

    Raises:
        ValueError: If the file is such a network.
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
        depthwise = [
            op for name, op in operators if name == "DEPTHWISE_CONV_2D"
        ]
        uneven = [_uneven(graph, op, schema) for op in depthwise]
        # If the first one is uneven, the network runs by dense kernels.
        if any(uneven) and not uneven[0]:
            op = depthwise[uneven.index(True)]
            raise ValueError(
                "`sparse_tensors` must be False for a network that begins "
                "with an explicitly padded convolution and has a later "
                "depthwise one with strides and padding='same': LiteRT pads "
                "that differently on 64-bit Arm, and its outputs are wrong "
                "there. Use `ZeroPadding2D` and padding='valid' in both. "
                "Received: sparse_tensors=True, with depthwise inputs of "
                f"shape {_shape(graph, op.inputs[0])}"
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
