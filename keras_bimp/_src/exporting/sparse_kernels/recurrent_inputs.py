"""LSTM and GRU: the product with their inputs, for all steps in one call."""

import functools

import numpy as np
from keras import layers
from keras import ops

from keras_bimp._src.backends import as_array
from keras_bimp._src.exporting.sparse_kernels.layouts import Columns
from keras_bimp._src.exporting.sparse_kernels.layouts import Layouts
from keras_bimp._src.exporting.sparse_kernels.products import Product
from keras_bimp._src.keras_internals.layers import carry_and_output


def refuses(layer) -> str | None:
    """Returns why a recurrent layer cannot be sparse; `None` if it can."""
    return None


def matrix(layer) -> np.ndarray:
    """Returns the kernel of a recurrent layer, of shape (gates, inputs)."""
    return np.ascontiguousarray(as_array(layer.cell.kernel).T)


def call(layer, product: Product, layouts: Layouts, sequences, *args, **kwargs):
    """Calls a recurrent layer with a sparse kernel for its inputs.

    Its cell takes the product of kernel and inputs; see `methods`.
    """
    columns = layouts.matrix(sequences, (2,))
    gates = Columns(
        product(columns.matrix),
        (layer.cell.kernel.shape[1],),
        columns.others,
        (1, 2, 0),
    )
    return type(layer).call(layer, gates.usual(), *args, **kwargs)


def methods(layer) -> list:
    """Returns the other methods to replace, as for `calls.replaced`."""
    step = _lstm if isinstance(layer, layers.LSTM) else _gru
    return [
        # Not cuDNN, which multiplies by the kernel itself.
        (layer, "inner_loop", functools.partial(layers.RNN.inner_loop, layer)),
        (layer.cell, "call", functools.partial(step, layer.cell)),
    ]


def _lstm(cell, gates, states, training=False):
    hidden, carry = states
    gates = gates + ops.matmul(hidden, cell.recurrent_kernel)
    if cell.use_bias:
        gates = gates + cell.bias
    forget_and_more = ops.split(gates, 4, axis=1)
    carry, out = carry_and_output(cell, forget_and_more, carry)
    hidden = out * cell.activation(carry)
    return hidden, [hidden, carry]


def _gru(cell, gates, states, training=False):
    hidden = states[0] if isinstance(states, list | tuple) else states
    kernel, units = cell.recurrent_kernel, cell.units
    added = 0.0
    if cell.use_bias:
        gates = gates + (cell.bias[0] if cell.reset_after else cell.bias)
        added = cell.bias[1] if cell.reset_after else 0.0
    own = ops.matmul(
        hidden, kernel if cell.reset_after else kernel[:, : 2 * units]
    )
    own = own + added
    update, reset = (
        cell.recurrent_activation(gates[:, part] + own[:, part])
        for part in (slice(units), slice(units, 2 * units))
    )
    if cell.reset_after:
        recalled = reset * own[:, 2 * units :]
    else:
        recalled = ops.matmul(reset * hidden, kernel[:, 2 * units :])
    candidate = cell.activation(gates[:, 2 * units :] + recalled)
    hidden = update * hidden + (1 - update) * candidate
    return hidden, [hidden] if isinstance(states, list | tuple) else hidden
