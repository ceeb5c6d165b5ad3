"""How often each kind of layer uses each entry of its kernels."""

import math
from typing import NamedTuple

import keras
from keras import layers

from keras_bimp._src.keras_internals.layers import layers_of
from keras_bimp._src.keras_internals.layers import stored_embeddings
from keras_bimp._src.keras_internals.layers import stored_kernel
from keras_bimp._src.keras_internals.quantization import float_kernels
from keras_bimp._src.metrics.tracing import Call


class Work(NamedTuple):
    """The multiply-adds of one call of a layer.

    Attributes:
        uses: Pairs of a kernel and how often each of its entries is used.
        own: Multiply-adds of activations by activations.

    Example:

    >>> class Scale(keras.layers.Layer):
    ...     def call(self, inputs):
    ...         return 2 * inputs
    >>> model = keras.Sequential([keras.Input((8,)), Scale()])
    >>> def work(call):
    ...     return keras_bimp.metrics.Work(own=call.outputs[-1])
    >>> keras_bimp.metrics.count_macs(model, rules={Scale: work}).dense
    8
    """

    uses: tuple[tuple[keras.Variable, int], ...] = ()
    own: int = 0


class UnknownWorkError(Exception):
    """Raised if the work is unknown; the message is the reason."""


def work_of(call: Call, rules: dict) -> Work:
    """Returns the work of a call, without the layers inside it.

    Args:
        call: The call.
        rules: Class -> callable (call) -> `Work`. They have precedence over
            the built-in rules.

    Raises:
        UnknownWorkError: If the work is not known.
    """
    operation = call.operation
    for kind, rule in rules.items():
        if isinstance(operation, kind):
            return rule(call)
    if not _is_kerass_own(operation):
        raise UnknownWorkError(_why_unknown(operation))
    if not isinstance(operation, keras.Layer):
        return _work_of_operation(call)
    try:
        return _work_of_layer(operation, call)
    except TypeError as error:  # Arithmetic with a size that is `None`.
        raise UnknownWorkError(
            "a size is only known at run time: pass a batch of examples as "
            "`input_shape`"
        ) from error


def _is_kerass_own(operation):
    module = type(operation).call.__module__.partition(".")[0]
    return module in ("keras", "keras_bimp")


def _why_unknown(operation):
    if not isinstance(operation, keras.Layer):
        return "a custom operation"
    inside = {id(v) for x in layers_of(operation) for v in x.weights}
    kernels = [
        v.name
        for v in operation.weights
        if len(v.shape) >= 2 and id(v) not in inside
    ]
    if kernels:
        return f"a custom class: not counted with {', '.join(kernels)}"
    return "a custom class: only the layers inside it are counted"


def _work_of_layer(layer, call):
    for kinds, rule in _RULES:
        if isinstance(layer, kinds):
            return rule(layer, call)
    if isinstance(layer, _OPAQUE):
        raise UnknownWorkError("it may compute anything")
    return Work()


def _dense(layer, call):
    kernel, _ = _kernel(layer)
    return Work(((kernel, math.prod(call.outputs) // layer.units),))


def _einsum_dense(layer, call):
    kernel, shape = _kernel(layer)
    total = _einsum_size(layer.equation, [call.inputs["inputs"], shape])
    return Work(((kernel, total // math.prod(shape)),))


def _convolution(layer, call):
    kernel, _ = _kernel(layer)
    return Work(((kernel, math.prod(call.outputs) // layer.filters),))


def _kernel(layer):
    """Returns a kernel's variable, and the shape that the layer uses."""
    for computed in float_kernels(layer):
        return computed.variable, computed.shape
    kernel = stored_kernel(layer)
    return kernel, tuple(kernel.shape)


def _depthwise(layer, call):
    channels = math.prod(layer.kernel.shape[-2:])
    return Work(((layer.kernel, math.prod(call.outputs) // channels),))


def _separable(layer, call):
    positions = math.prod(call.outputs) // layer.filters
    return Work(
        (
            (layer.depthwise_kernel, positions),
            (layer.pointwise_kernel, positions),
        )
    )


def _transposed(layer, call):
    # Each position of the inputs meets the whole kernel.
    channels = layer.kernel.shape[-1]
    return Work(((layer.kernel, math.prod(call.inputs["inputs"]) // channels),))


def _reversed_embedding(layer, call):
    if not call.inputs.get("reverse"):
        return Work()
    table = stored_embeddings(layer)
    if not layer.tie_weights:
        table = layer.reverse_embeddings
    return Work(((table, math.prod(call.outputs) // layer.input_dim),))


def _recurrent(layer, call):
    batch, steps = call.inputs["sequences"][:2]
    uses = []
    for cell in getattr(layer.cell, "cells", [layer.cell]):
        if not isinstance(cell, _CELLS) or not _is_kerass_own(cell):
            raise UnknownWorkError("it has a custom cell")
        uses.append((cell.kernel, batch * steps))
        uses.append((cell.recurrent_kernel, batch * steps))
    return Work(tuple(uses))


def _cell(layer, call):
    # Called outside of a recurrent layer, for one step.
    (batch, _), *_ = call.inputs.values()
    return Work(((layer.kernel, batch), (layer.recurrent_kernel, batch)))


def _recurrent_convolution(layer, call):
    outputs = call.outputs
    if layer.return_state:
        outputs = outputs[0]
    positions = math.prod(outputs) // layer.cell.filters
    if not layer.return_sequences:
        positions *= call.inputs["sequences"][1]
    cell = layer.cell
    return Work(((cell.kernel, positions), (cell.recurrent_kernel, positions)))


def _multi_head_attention(layer, call):
    query, value = call.inputs["query"], call.inputs["value"]
    axes = layer.attention_axes or range(1, len(query) - 1)
    axes = (axes,) if isinstance(axes, int) else axes
    pairs = math.prod(query[:-1]) * math.prod(value[axis] for axis in axes)
    sizes = layer.key_dim + (layer.value_dim or layer.key_dim)
    return Work(own=pairs * layer.num_heads * sizes)


def _grouped_query_attention(layer, call):
    query, value = call.inputs["query"], call.inputs["value"]
    pairs = math.prod(query[:2]) * value[1]
    return Work(own=pairs * layer.num_query_heads * 2 * layer.head_dim)


def _attention(layer, call):
    query, value = call.inputs["inputs"][:2]
    pairs = math.prod(query[:-1]) * value[-2]
    if isinstance(layer, layers.AdditiveAttention):
        scored = layer.use_scale
    else:
        scored = layer.score_mode == "dot"
    return Work(own=pairs * (scored * query[-1] + value[-1]))


def _dot(layer, call):
    axis = layer.axes if isinstance(layer.axes, int) else layer.axes[0]
    return Work(own=math.prod(call.outputs) * call.inputs["inputs"][0][axis])


def _work_of_operation(call):
    """Returns the work of a `keras.ops` call in a Functional model."""
    name = type(call.operation).__name__
    unknown = f"`keras.ops` {name} is not counted"
    if name in _UNKNOWN_OPERATIONS:
        raise UnknownWorkError(unknown)
    if name not in _PRODUCTS:
        return Work()
    shapes = _flat_shapes(list(call.inputs.values()))
    if name == "Einsum" and len(shapes) == 1:
        return Work()
    if name != "DotProductAttention" and len(shapes) != 2:
        raise UnknownWorkError(unknown)
    return Work(own=_PRODUCTS[name](call, shapes))


def _matmul(call, shapes):
    return math.prod(call.outputs) * shapes[0][-1]


def _einsum(call, shapes):
    return _einsum_size(call.operation.subscripts, shapes)


def _product(call, shapes):
    # (rows x summed) by (summed x columns).
    return math.isqrt(
        math.prod(map(math.prod, shapes)) * math.prod(call.outputs)
    )


def _dot_product_attention(call, shapes):
    (batch, length, heads, size), (_, others, *_) = shapes[:2]
    return batch * length * others * heads * 2 * size


def _flat_shapes(given):
    """Flattens nested shapes; a shape is a tuple of integers."""
    if isinstance(given, tuple) and all(isinstance(x, int) for x in given):
        return [given]
    if isinstance(given, list | tuple):
        return [shape for part in given for shape in _flat_shapes(part)]
    return []


def _einsum_size(equation, shapes):
    """Returns the number of products: one per combination of indices."""
    sizes = {}
    inputs = equation.replace(" ", "").partition("->")[0]
    for labels, shape in zip(inputs.split(","), shapes, strict=True):
        head, _, tail = labels.partition("...")
        # Labels of the axes in an ellipsis, counted from its end.
        wild = range(len(head) + len(tail) - len(shape), 0)
        for label, size in zip([*head, *wild, *tail], shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return math.prod(sizes.values())


_CELLS = (layers.SimpleRNNCell, layers.LSTMCell, layers.GRUCell)
_RULES = (
    ((layers.Dense,), _dense),
    ((layers.EinsumDense,), _einsum_dense),
    ((layers.Conv1D, layers.Conv2D, layers.Conv3D), _convolution),
    ((layers.DepthwiseConv1D, layers.DepthwiseConv2D), _depthwise),
    ((layers.SeparableConv1D, layers.SeparableConv2D), _separable),
    (
        (
            layers.Conv1DTranspose,
            layers.Conv2DTranspose,
            layers.Conv3DTranspose,
        ),
        _transposed,
    ),
    ((layers.ReversibleEmbedding,), _reversed_embedding),
    (
        (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D),
        _recurrent_convolution,
    ),
    ((layers.RNN,), _recurrent),
    (_CELLS, _cell),
    ((layers.MultiHeadAttention,), _multi_head_attention),
    ((layers.GroupQueryAttention,), _grouped_query_attention),
    ((layers.Attention,), _attention),
    ((layers.Dot,), _dot),
)
_OPAQUE = (
    layers.Lambda,
    layers.JaxLayer,
    layers.FlaxLayer,
    layers.TFSMLayer,
    layers.TorchModuleWrapper,
    layers.STFTSpectrogram,
    layers.MelSpectrogram,
)
_PRODUCTS = {
    "Dot": _product,
    "DotProductAttention": _dot_product_attention,
    "Einsum": _einsum,
    "Inner": _product,
    "Matmul": _matmul,
    "Outer": _product,
    "Tensordot": _product,
    "Vdot": _product,
}
_UNKNOWN_OPERATIONS = (
    "AssociativeScan",
    "CDist",
    "Cholesky",
    "CholeskyInverse",
    "Cond",
    "Conv",
    "ConvTranspose",
    "Corrcoef",
    "Correlate",
    "DepthwiseConv",
    "Det",
    "Eig",
    "Eigh",
    "ElasticTransform",
    "FFT",
    "FFT2",
    "ForiLoop",
    "GaussianBlur",
    "IFFT2",
    "IRFFT",
    "ISTFT",
    "Inv",
    "JVP",
    "Kron",
    "Lstsq",
    "Logdet",
    "LuFactor",
    "Map",
    "MatrixRank",
    "Pinv",
    "Qr",
    "RFFT",
    "SSIM",
    "STFT",
    "SVD",
    "Scan",
    "SeparableConv",
    "Slogdet",
    "SobelEdges",
    "Solve",
    "SolveTriangular",
    "Switch",
    "VectorizedMap",
    "WhileLoop",
)
