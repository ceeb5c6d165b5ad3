"""Layers between sparse kernels that leave the order of axes as it is."""

import keras
from keras import layers
from keras import ops
from keras import tree

from keras_bimp.exporting.sparse_kernels.contracting import is_elementwise
from keras_bimp.exporting.sparse_kernels.layouts import Layouts
from keras_bimp.exporting.sparse_kernels.layouts import sizes_of


def activation(layer, layouts: Layouts, x, *args, **kwargs):
    """What an activation computes, of a matrix if one is known."""
    columns = layouts.of(x)
    if columns is None:
        return type(layer).call(layer, x, *args, **kwargs)
    matrix = type(layer).call(layer, columns.matrix)
    return layouts.keep(columns._replace(matrix=matrix))


def add(layer, layouts: Layouts, inputs):
    """What `Add` computes, of matrices if they are known."""
    known = [layouts.of(x) for x in inputs]
    shapes = {tuple(x.shape) for x in inputs}
    axes = {columns and columns.axes for columns in known}
    if (
        None in axes
        or len(axes) != 1
        or len(shapes) != 1
        or None in next(iter(shapes))[1:]
    ):
        return type(layer).call(layer, inputs)
    matrix = known[0].matrix
    for columns in known[1:]:
        matrix = ops.add(matrix, columns.matrix)
    return layouts.keep(known[0]._replace(matrix=matrix))


def time_distributed(layer, x, training=None, mask=None):
    """What `TimeDistributed` computes, of all steps at once."""
    import tensorflow as tf

    batch, steps, *others = sizes_of(x)
    more = {}
    if layer.layer._call_has_mask_arg and mask is not None:
        more["mask"] = tf.reshape(mask, (-1, *sizes_of(mask)[2:]))
    if layer.layer._call_has_training_arg:
        more["training"] = training
    outputs = layer.layer.call(tf.reshape(x, (-1, *others)), **more)
    return tree.map_structure(
        lambda y: tf.reshape(y, (batch, steps, *sizes_of(y)[1:])), outputs
    )


def function_of(layer: keras.Layer):
    """Callable (layer, layouts, inputs); `None` if a layer is none of these."""
    if type(layer) is layers.Activation:
        return activation if is_elementwise(layer.activation) else None
    return _FUNCTIONS.get(type(layer))


_FUNCTIONS = {
    layers.Add: add,
    layers.ELU: activation,
    layers.LeakyReLU: activation,
    layers.ReLU: activation,
}
