"""Batch normalization that the layer before it does along the way.

Where weights are constants, runtimes see to that. In a SavedModel they are
variables: batch normalization computes its root and its quotients anew for
every request, and goes over all pixels once more.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator

import keras
import numpy as np
from keras import layers

from keras_bimp.backends import as_array
from keras_bimp.shrinking.following import graph_of
from keras_bimp.shrinking.following import is_graph
from keras_bimp.shrinking.following import nodes_of
from keras_bimp.shrinking.following import trains


@contextlib.contextmanager
def folded(model: keras.Model) -> Iterator[None]:
    """For as long as this lasts, `model` computes with fewer operations.

    A convolution or dense layer whose output goes to batch normalization and
    nowhere else computes with a kernel and bias that do both. What comes out
    at inference is the same, but for rounding. Only Functional and Sequential
    models, for the others' graph is not known.

    Args:
        model: A plain, built model. No weight of it changes.
    """
    changed = []
    try:
        for layer, norm, shape in _pairs(model):
            both = _merged(layer, norm, shape)
            if both is None:
                continue
            changed += [layer, norm]
            # Not as attributes, which Keras would track as weights.
            vars(layer)["call"] = _calling(both)
            vars(norm)["call"] = _identity
        yield
    finally:
        for layer in changed:
            del vars(layer)["call"]


def _calling(layer):
    return lambda inputs, training=None: layer(inputs)


def _identity(inputs, training=None, mask=None):
    return inputs


def _pairs(model):
    """Yields a layer, the batch normalization behind it, its input's shape."""
    graphs = list({id(g): g for g in _graphs(model)}.values())
    nodes = [node for graph in graphs for node in nodes_of(graph)]
    calls = Counter(id(node.operation) for node in nodes)
    calls.update(_called_elsewhere(nodes))
    read = Counter(id(x) for graph in graphs for x in graph.outputs)
    read.update(id(x) for node in nodes for x in node.input_tensors)
    source = {id(y): node for node in nodes for y in node.outputs}
    for node in nodes:
        norm = node.operation
        if type(norm) is not layers.BatchNormalization or trains(node):
            continue
        (x,) = node.input_tensors[:1]
        before = source.get(id(x))
        if (
            before is not None
            and read[id(x)] == 1
            and calls[id(norm)] == calls[id(before.operation)] == 1
            and norm.axis in (-1, len(x.shape) - 1)
            and _is_linear(before.operation)
            and _computes_alike(norm, before.operation)
        ):
            yield before.operation, norm, before.input_tensors[0].shape


def _graphs(model):
    """Yields the graphs of a model and of those inside it."""
    if not is_graph(model):
        return
    yield graph_of(model)
    for node in nodes_of(graph_of(model)):
        if not trains(node):
            yield from _graphs(node.operation)


def _called_elsewhere(nodes):
    """The `id` of layers that something which is no graph may call."""
    return [
        id(layer)
        for node in nodes
        if isinstance(node.operation, keras.Layer)
        and (trains(node) or not is_graph(node.operation))
        for layer in node.operation._flatten_layers(include_self=False)
    ]


def _is_linear(layer):
    return (
        type(layer) in _SCALED
        and layer.activation is keras.activations.linear
        and getattr(layer, "data_format", "channels_last") == "channels_last"
        and layer.quantization_mode is None
        and not getattr(layer, "lora_enabled", False)
    )


def _computes_alike(*both):
    types = {t for b in both for t in (b.compute_dtype, b.variable_dtype)}
    return types in ({"float32"}, {"float64"}) and not any(
        "call" in vars(layer) for layer in both
    )


def _merged(layer, norm, shape):
    """The layer that does both; `None` if its weights would not be finite."""
    mean, variance = map(_as_float, (norm.moving_mean, norm.moving_variance))
    with np.errstate(all="ignore"):
        factor = 1 / np.sqrt(variance + norm.epsilon)
        if norm.scale:
            factor *= _as_float(norm.gamma)
        bias = _as_float(layer.bias) if layer.use_bias else 0.0
        bias = (bias - mean) * factor
        if norm.center:
            bias += _as_float(norm.beta)
        *others, last = _kernels(layer)
        weights = {name: as_array(getattr(layer, name)) for name in others}
        kernel = _as_float(getattr(layer, last))
        weights[last] = kernel * _SCALED[type(layer)](factor, kernel.shape)
        weights["bias"] = bias
        weights = {
            name: array.astype(layer.variable_dtype)
            for name, array in weights.items()
        }
    if not all(np.isfinite(array).all() for array in weights.values()):
        return None
    config = {**layer.get_config(), "use_bias": True}
    for key in config:
        if key.endswith("_initializer"):
            config[key] = "zeros"
        elif key.endswith(("_regularizer", "_constraint")):
            config[key] = None
    both = type(layer).from_config(config)
    both.build(shape)
    for name, array in weights.items():
        getattr(both, name).assign(array)
    return both


def _kernels(layer):
    """Names of its kernels, the one that makes the outputs last."""
    if hasattr(layer, "pointwise_kernel"):
        return "depthwise_kernel", "pointwise_kernel"
    return ("kernel",)


def _as_float(variable):
    return as_array(variable).astype(float)


def _of_last_axis(factor, shape):
    return factor


def _of_last_axis_but_one(factor, shape):
    return factor[:, None]


def _of_last_two_axes(factor, shape):
    return factor.reshape(shape[-2:])


# A factor for each output, in the shape that its kernel is multiplied with.
_SCALED = {
    layers.Conv1D: _of_last_axis,
    layers.Conv2D: _of_last_axis,
    layers.Conv3D: _of_last_axis,
    layers.Conv1DTranspose: _of_last_axis_but_one,
    layers.Conv2DTranspose: _of_last_axis_but_one,
    layers.Conv3DTranspose: _of_last_axis_but_one,
    layers.Dense: _of_last_axis,
    layers.DepthwiseConv1D: _of_last_two_axes,
    layers.DepthwiseConv2D: _of_last_two_axes,
    layers.SeparableConv1D: _of_last_axis,
    layers.SeparableConv2D: _of_last_axis,
}
