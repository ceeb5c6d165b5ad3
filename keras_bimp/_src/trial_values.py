"""Find valid entries of a model's inputs, for trial runs.

An index outside an embedding makes a model fail, and zeros alone may be masked
entirely. So the graph is followed from each input to the layers that index,
look up or mask its entries.
"""

import dataclasses
from collections.abc import Iterator

import keras
import numpy as np
from keras import layers

from keras_bimp._src.keras_internals.functional_graphs import graph_of
from keras_bimp._src.keras_internals.functional_graphs import nodes_of
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.keras_internals.layers import layers_of
from keras_bimp._src.masking import Masked
from keras_bimp._src.masking import MaskedModel

# Number of values for a layer that accepts any number.
_MANY = 1000


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Integers in [0, count). Some examples end in zeros, like padding."""

    count: int

    def draw(self, shape, dtype, rng):
        count = self.count
        if np.dtype(dtype).kind in "iu":
            count = min(count, np.iinfo(dtype).max)
        array = rng.integers(min(1, count - 1), max(count, 1), shape)
        return _padded(array, 0).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Among:
    """Entries of a vocabulary of words or integers."""

    vocabulary: tuple

    def draw(self, shape, dtype, rng):
        array = rng.choice(np.array(self.vocabulary), shape)
        return array if dtype == "string" else array.astype(dtype)


@dataclasses.dataclass(frozen=True)
class Texts:
    """Texts of three words from a vocabulary."""

    words: tuple[str, ...]

    def draw(self, shape, dtype, rng):
        words = rng.choice(np.array(self.words), (*shape, 3))
        return np.apply_along_axis(" ".join, -1, words.astype(object))


@dataclasses.dataclass(frozen=True)
class Between:
    """Numbers from `low` to `high`."""

    low: float
    high: float

    def draw(self, shape, dtype, rng):
        array = rng.uniform(self.low, self.high, shape)
        if np.dtype(dtype).kind in "iu":
            array = np.round(array)
        return array.astype(dtype)


@dataclasses.dataclass(frozen=True)
class Padded:
    """Random floats. Some examples end in masked steps."""

    mask_value: float

    def draw(self, shape, dtype, rng):
        array = rng.standard_normal(shape)
        return _padded(array, self.mask_value).astype(dtype)


def input_values(model: keras.Model, dtypes: list[str]) -> list:
    """Return what the entries of each input of a model may be.

    Args:
        model: A built model.
        dtypes: The types of its inputs, in the order of `keras.tree.flatten`.

    Returns:
        For each input one of the classes above, or `None` if unknown.
    """
    if isinstance(model, MaskedModel):
        model = model.wrapper.layer
    graph = graph_of(model)
    if graph is None:
        found = [_inside(model)] * len(dtypes)
    else:
        found = [list(_readers(graph, x, set())) for x in graph.inputs]
        if len(found) != len(dtypes):
            return [None] * len(dtypes)
    return [_narrowest(*pair) for pair in zip(found, dtypes, strict=True)]


def _narrowest(found, dtype):
    is_text = dtype == "string"
    suitable = [v for v in found if is_text == _is_text(v)]
    others = [v for v in suitable if not isinstance(v, Numbers)]
    numbers = [v for v in suitable if isinstance(v, Numbers)]
    return min(numbers, key=lambda v: v.count, default=next(iter(others), None))


def _is_text(values):
    known = getattr(values, "vocabulary", None)
    return isinstance(values, Texts) or (
        known is not None and isinstance(known[0], str)
    )


def _readers(graph, tensor, seen) -> Iterator:
    """Yield what the layers that read a tensor of a graph accept."""
    # A model may contain another one that begins with the same tensors.
    if (id(graph), id(tensor)) in seen:
        return
    seen.add((id(graph), id(tensor)))
    for node in nodes_of(graph):
        if not any(x is tensor for x in node.input_tensors):
            continue
        operation = _without_mask(node.operation)
        values, inner = _taken_by(operation), graph_of(operation)
        if values is not None:
            yield values
        elif inner is not None and len(inner.inputs) == len(node.input_tensors):
            for x, other in zip(node.input_tensors, inner.inputs, strict=True):
                if x is tensor:
                    yield from _readers(inner, other, seen)
        elif isinstance(operation, keras.Layer) and layers_of(operation):
            yield from _inside(operation)
        elif not getattr(operation, "weights", None):
            for y in node.outputs:
                yield from _readers(graph, y, seen)


def _inside(layer):
    """Return what the inner layers of a layer without a graph accept."""
    found = map(_taken_by, layers_in(layer, include_self=False))
    return [values for values in found if values is not None]


def _without_mask(operation):
    if isinstance(operation, MaskedModel):
        return operation.wrapper.layer
    return operation.layer if isinstance(operation, Masked) else operation


def _taken_by(operation):
    """Return what a layer accepts; `None` if anything."""
    for kind in type(operation).__mro__:
        if kind in _TAKEN:
            return _TAKEN[kind](operation)
    return None


def _of_lookup(layer):
    if layer.invert:
        return Numbers(layer.vocabulary_size())
    vocabulary = tuple(layer.get_vocabulary())
    return Among(vocabulary) if vocabulary else None


def _of_texts(layer):
    words = layer.get_vocabulary(include_special_tokens=False)
    return Texts((*words, "a"))


def _of_boundaries(layer):
    bounds = layer.bin_boundaries
    if bounds is None or not len(bounds):
        return None
    return Between(min(bounds) - 1, max(bounds) + 1)


def _padded(array, value):
    """Pad the second half of every second example, including the last."""
    if array.ndim > 1:
        array[::-1][::2, (array.shape[1] + 1) // 2 :] = value
    return array


_TAKEN = {
    layers.CategoryEncoding: lambda layer: Numbers(layer.num_tokens),
    layers.Discretization: _of_boundaries,
    layers.Embedding: lambda layer: Numbers(layer.input_dim),
    layers.Hashing: lambda layer: Numbers(_MANY),
    layers.IntegerLookup: _of_lookup,
    layers.Masking: lambda layer: Padded(layer.mask_value),
    layers.StringLookup: _of_lookup,
    layers.TextVectorization: _of_texts,
}
