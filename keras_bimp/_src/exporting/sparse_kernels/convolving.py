"""Convolutions: products over a filter's receptive field."""

import math

import numpy as np

from keras_bimp._src.backends import as_array
from keras_bimp._src.exporting.sparse_kernels.contracting import finished
from keras_bimp._src.exporting.sparse_kernels.layouts import Columns
from keras_bimp._src.exporting.sparse_kernels.layouts import Layouts
from keras_bimp._src.exporting.sparse_kernels.layouts import sizes_of
from keras_bimp._src.exporting.sparse_kernels.products import Product
from keras_bimp._src.exporting.sparse_kernels.products import padded


def refuses(layer) -> str | None:
    """Returns why a convolution cannot be sparse; `None` if it can."""
    if layer.groups > 1:
        return "has groups"
    if layer.data_format != "channels_last":
        return "has channels-first data"
    return None


def matrix(layer) -> np.ndarray:
    """Returns the kernel of a convolution, of shape (filters, all inputs)."""
    kernel = as_array(layer.kernel)
    return np.ascontiguousarray(kernel.reshape(-1, kernel.shape[-1]).T)


def call(layer, product: Product, layouts: Layouts, x):
    """Calls a convolution with a sparse kernel."""
    size, strides = layer.kernel_size, layer.strides
    channels = layouts.matrix(x, (len(x.shape) - 1,))
    if math.prod(size) == math.prod(strides) == 1:
        matrix, others = channels.matrix, channels.others
    else:
        matrix, others = _windows(layer, channels)
    rank = len(x.shape) - 1
    columns = Columns(
        product(matrix), (layer.filters,), others, (*range(1, rank + 1), 0)
    )
    bias = layer.bias if layer.use_bias else None
    return finished(columns, layouts, bias, layer.activation)


def _windows(layer, channels):
    """Returns the input windows as columns, and the sizes of the outputs."""
    import tensorflow as tf

    x = channels.unpacked()  # Channels, examples, and spatial axes.
    sizes = sizes_of(x)[2:]
    pads, outputs = [], []
    for n, size, stride, dilation in zip(
        sizes,
        layer.kernel_size,
        layer.strides,
        layer.dilation_rate,
        strict=True,
    ):
        reach = (size - 1) * dilation
        if layer.padding == "valid":
            pads.append((0, 0))
            outputs.append((n - reach + stride - 1) // stride)
            continue
        outputs.append((n + stride - 1) // stride)
        if layer.padding == "causal":
            pads.append((reach, 0))
            continue
        # If the last window ends beyond the input, half of that is padding in
        # front.
        beyond = (outputs[-1] - 1) * stride + reach + 1 - n
        known = isinstance(beyond, int)
        beyond = max(beyond, 0) if known else tf.maximum(beyond, 0)
        pads.append((beyond // 2, beyond - beyond // 2))
    if layer.padding != "valid":
        x = tf.pad(x, [(0, 0), (0, 0), *pads])
    taps = []
    for place in np.ndindex(*layer.kernel_size):
        window = [slice(None), slice(None)]
        for i, n, stride, dilation in zip(
            place, outputs, layer.strides, layer.dilation_rate, strict=True
        ):
            begin = i * dilation
            window.append(slice(begin, begin + (n - 1) * stride + 1, stride))
        taps.append(x[tuple(window)])
    others = (channels.others[0], *outputs)
    rows = len(taps) * channels.units[0]
    matrix = tf.reshape(
        taps[0] if len(taps) == 1 else tf.concat(taps, 0),
        (rows, math.prod(others)),
    )
    return padded(matrix), others
