"""Batch normalization that the layer before it does along the way.

Where weights are constants, runtimes see to that. In a SavedModel they are
variables: batch normalization computes its root and its quotients anew for
every request, and goes over all pixels once more.
"""

import contextlib
import functools
from collections import Counter
from collections.abc import Iterator

import keras
import numpy as np
from keras import layers

from keras_bimp._src.backends import as_array
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.replaced_calls import replaced
from keras_bimp._src.shrinking.following import graph_of
from keras_bimp._src.shrinking.following import is_graph
from keras_bimp._src.shrinking.following import nodes_of
from keras_bimp._src.shrinking.following import trains

# Of the means, in standard deviations. Beyond it, what is left of the mean and
# what takes it away are rounded so much that outputs differ by 1e-5.
_FARTHEST = 32

# For each kind of layer, the shape in which factors of its outputs fit its last
# kernel.
_FITTING = {
    layers.Conv1D: (-1,),
    layers.Conv2D: (-1,),
    layers.Conv3D: (-1,),
    layers.Conv1DTranspose: (-1, 1),
    layers.Conv2DTranspose: (-1, 1),
    layers.Conv3DTranspose: (-1, 1),
    layers.Dense: (-1,),
    layers.DepthwiseConv1D: None,  # That of its last two axes.
    layers.DepthwiseConv2D: None,
    layers.SeparableConv1D: (-1,),
    layers.SeparableConv2D: (-1,),
}


@contextlib.contextmanager
def folded(model: keras.Model) -> Iterator[dict[int, keras.Layer]]:
    """For as long as this lasts, `model` computes with fewer operations.

    A convolution or dense layer whose output goes to batch normalization and
    nowhere else computes with a kernel and bias that do both. What comes out
    at inference is the same, but for rounding. Only Functional and Sequential
    models, for the others' graph is not known, and only in this thread.

    Args:
        model: A plain, built model. No weight of it changes.

    Yields:
        The `id` of a layer -> the layer that computes in its place.
    """
    functions, merged = [], {}
    for layer, norm in _pairs(model):
        both = _merged(layer, norm)
        if both is not None:
            functions += [
                (layer, "call", functools.partial(_call, both)),
                (norm, "call", _identity),
            ]
            merged[id(layer)] = both
    with replaced(functions):
        yield merged


def _call(layer, inputs, *args, **kwargs):
    return type(layer).call(layer, inputs)


def _identity(inputs, *args, **kwargs):
    return inputs


def _pairs(model):
    """A list of layers with the batch normalization behind them."""
    graphs = list(_graphs(model, set()))
    nodes = [node for graph in graphs for node in nodes_of(graph)]
    if any(_may_call_any(node.operation) for node in nodes):
        return []
    calls = Counter(id(node.operation) for node in nodes)
    calls.update(_called_elsewhere(nodes))
    read = Counter(id(x) for graph in graphs for x in graph.outputs)
    read.update(id(x) for node in nodes for x in node.input_tensors)
    source = {id(y): node.operation for node in nodes for y in node.outputs}
    pairs = []
    for node in nodes:
        norm = node.operation
        if type(norm) is not layers.BatchNormalization or trains(node):
            continue
        x = node.input_tensors[0]
        layer = source.get(id(x))
        if (
            read[id(x)] == 1
            and calls[id(norm)] == calls[id(layer)] == 1
            and norm.axis in (-1, len(x.shape) - 1)
            and _is_linear(layer)
            and _compute_alike(layer, norm)
        ):
            pairs.append((layer, norm))
    return pairs


def _is_followed(operation):
    return is_graph(operation) and "call" not in vars(operation)


def _graphs(model, seen):
    """Yields the graphs of a model and of those inside it, each once."""
    if not _is_followed(model) or id(model) in seen:
        return
    seen.add(id(model))
    yield graph_of(model)
    for node in nodes_of(graph_of(model)):
        if not trains(node):
            yield from _graphs(node.operation, seen)


def _may_call_any(operation):
    """Whether a function in it may call layers that nobody knows of."""
    if isinstance(operation, keras.Layer):
        return isinstance(operation, layers.Lambda)
    return any(map(callable, vars(operation).values()))


def _called_elsewhere(nodes):
    """The `id` of layers that something which is no graph may call."""
    return [
        id(layer)
        for node in nodes
        if isinstance(node.operation, keras.Layer)
        and (trains(node) or not _is_followed(node.operation))
        for layer in layers_in(node.operation, include_self=False)
    ]


def _is_linear(layer):
    return (
        type(layer) in _FITTING
        and layer.activation is keras.activations.linear
        and getattr(layer, "data_format", "channels_last") == "channels_last"
        and layer.quantization_mode is None
        and not getattr(layer, "lora_enabled", False)
    )


def _compute_alike(*both):
    types = {t for b in both for t in (b.compute_dtype, b.variable_dtype)}
    return types in ({"float32"}, {"float64"}) and not any(
        "call" in vars(layer) for layer in both
    )


def _merged(layer, norm):
    """A copy of the layer that does both; `None` if it would be inexact."""
    name = _last_kernel(layer)
    kernel = _as_float(vars(layer)[name])
    bias = _as_float(layer.bias) if layer.use_bias else 0.0
    with np.errstate(all="ignore"):
        factor = 1 / np.sqrt(_as_float(norm.moving_variance) + norm.epsilon)
        shift = (bias - _as_float(norm.moving_mean)) * factor
        if not np.abs(shift).max() <= _FARTHEST:
            return None
        if norm.scale:
            gamma = _as_float(norm.gamma)
            factor, shift = factor * gamma, shift * gamma
        if norm.center:
            shift = shift + _as_float(norm.beta)
        fitting = _FITTING[type(layer)] or kernel.shape[-2:]
        arrays = {name: kernel * factor.reshape(fitting), "bias": shift}
        arrays = {k: a.astype(layer.variable_dtype) for k, a in arrays.items()}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        return None
    both = object.__new__(type(layer))
    vars(both).update(vars(layer), use_bias=True)
    for name, array in arrays.items():
        vars(both)[name] = keras.Variable(
            array, dtype=layer.variable_dtype, name=name.strip("_")
        )
    return both


def _last_kernel(layer):
    """The attribute that holds it."""
    known = ("pointwise_kernel", "_kernel", "kernel")
    return next(name for name in known if name in vars(layer))


def _as_float(variable):
    return as_array(variable).astype(float)
