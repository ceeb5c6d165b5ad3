"""Folds batch normalization into the layer before it.

Where weights are constants, runtimes do this. In a SavedModel they are
variables: batch normalization recomputes its scale for every request, and makes
another pass over all pixels.
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

# The largest mean, in standard deviations. Beyond it, the mean and the bias
# that cancels it are so large that rounding changes outputs by 1e-5.
_FARTHEST = 32

# Type of layer -> the shape in which a factor per output channel broadcasts to
# the layer's last kernel.
_FITTING = {
    layers.Conv1D: (-1,),
    layers.Conv2D: (-1,),
    layers.Conv3D: (-1,),
    layers.Conv1DTranspose: (-1, 1),
    layers.Conv2DTranspose: (-1, 1),
    layers.Conv3DTranspose: (-1, 1),
    layers.Dense: (-1,),
    layers.DepthwiseConv1D: None,  # The shape of its last two axes.
    layers.DepthwiseConv2D: None,
    layers.SeparableConv1D: (-1,),
    layers.SeparableConv2D: (-1,),
}


@contextlib.contextmanager
def folded(model: keras.Model) -> Iterator[dict[int, keras.Layer]]:
    """Folds batch normalization of `model` within this context.

    A convolution or dense layer whose output goes only to batch normalization
    computes both with one kernel and bias. Outputs at inference are the same
    up to rounding. Only for Functional and Sequential models, since the graph
    of others is not known, and only in this thread.

    Args:
        model: A plain, built model. Its weights do not change.

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
    """Lists (layer, batch normalization after it) pairs that can be folded."""
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
    """Yields the graphs of a model and of the models inside it, each once."""
    if not _is_followed(model) or id(model) in seen:
        return
    seen.add(id(model))
    yield graph_of(model)
    for node in nodes_of(graph_of(model)):
        if not trains(node):
            yield from _graphs(node.operation, seen)


def _may_call_any(operation):
    """Whether a function in it may call unknown layers."""
    if isinstance(operation, keras.Layer):
        return isinstance(operation, layers.Lambda)
    return any(map(callable, vars(operation).values()))


def _called_elsewhere(nodes):
    """The `id` of each layer that something other than a graph may call."""
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
    """Returns a copy of the layer that does both, `None` if inexact."""
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
    """Returns the name of the attribute that holds the last kernel."""
    known = ("pointwise_kernel", "_kernel", "kernel")
    return next(name for name in known if name in vars(layer))


def _as_float(variable):
    return as_array(variable).astype(float)
