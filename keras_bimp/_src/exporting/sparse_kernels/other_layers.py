"""Layers between sparse kernels that preserve the layout of activations."""

import keras
from keras import layers
from keras import ops
from keras import tree

from keras_bimp._src.exporting.sparse_kernels.contracting import is_elementwise
from keras_bimp._src.exporting.sparse_kernels.layouts import Layouts
from keras_bimp._src.exporting.sparse_kernels.layouts import sizes_of
from keras_bimp._src.keras_internals.layers import takes_mask
from keras_bimp._src.keras_internals.layers import takes_training


def activation(layer, layouts: Layouts, x, *args, **kwargs):
    """Calls an activation, on the matrix if it is known."""
    columns = layouts.of(x)
    if columns is None:
        return type(layer).call(layer, x, *args, **kwargs)
    matrix = type(layer).call(layer, columns.matrix)
    return layouts.keep(columns._replace(matrix=matrix))


def add(layer, layouts: Layouts, inputs):
    """Calls `Add`, on the matrices if they are known."""
    first = next(filter(None, map(layouts.of, inputs)), None)
    alike = len({tuple(x.shape) for x in inputs}) == 1
    known = [
        alike and first and layouts.known(x, first.of_units()) for x in inputs
    ]
    if not all(known):
        return type(layer).call(layer, inputs)
    matrix = known[0].matrix
    for columns in known[1:]:
        matrix = _same_sizes(known[0], columns)(
            lambda a=matrix, b=columns.matrix: ops.add(a, b)
        )
    return layouts.keep(known[0]._replace(matrix=matrix))


def layer_normalization(layer, layouts: Layouts, x):
    """Calls `LayerNormalization`, on the matrix if it is known."""
    columns = layouts.of(x)
    last = len(x.shape) - 1
    if (
        columns is None
        or columns.of_units() != (last,)
        or layer.axis not in (-1, last, [-1], [last], (-1,), (last,))
        or layer.rms_scaling
    ):
        return type(layer).call(layer, x)
    matrix = ops.layer_normalization(
        columns.matrix, layer.gamma, layer.beta, 0, layer.epsilon
    )
    return layouts.keep(columns._replace(matrix=matrix))


def _same_sizes(columns, others):
    """Returns a caller that first checks that unknown sizes are equal."""
    import tensorflow as tf

    pairs = [
        pair
        for pair in zip(columns.others, others.others, strict=True)
        if pair[0] is not pair[1] and not all(isinstance(n, int) for n in pair)
    ]
    if len(pairs) < 2:  # Only the batch size.
        return lambda function: function()
    check = tf.debugging.assert_equal(
        *map(tf.stack, zip(*pairs, strict=True)),
        "inputs of `Add` must have the same shape",
    )

    def call(function):
        with tf.control_dependencies([check]):
            return function()

    return call


def time_distributed(layer, x, training=None, mask=None):
    """Calls `TimeDistributed` on all steps in one batch."""
    import tensorflow as tf

    batch, steps, *others = sizes_of(x)
    more = {}
    if takes_mask(layer.layer) and mask is not None:
        more["mask"] = tf.reshape(mask, (-1, *sizes_of(mask)[2:]))
    if takes_training(layer.layer):
        more["training"] = training
    outputs = layer.layer.call(tf.reshape(x, (-1, *others)), **more)
    return tree.map_structure(
        lambda y: tf.reshape(y, (batch, steps, *sizes_of(y)[1:])), outputs
    )


def function_of(layer: keras.Layer):
    """Returns a callable (layer, layouts, inputs) for a layer, or `None`."""
    if type(layer) is layers.Activation:
        return activation if is_elementwise(layer.activation) else None
    return _FUNCTIONS.get(type(layer))


_FUNCTIONS = {
    layers.Add: add,
    layers.ELU: activation,
    layers.LayerNormalization: layer_normalization,
    layers.LeakyReLU: activation,
    layers.ReLU: activation,
}
