"""Makes kernels of a model sparse within a context."""

import contextlib
import functools
from collections.abc import Iterator
from collections.abc import Sequence

import keras
from keras import layers

from keras_bimp._src.exporting.sparse_kernels import other_layers as passing
from keras_bimp._src.exporting.sparse_kernels.candidates import Candidate
from keras_bimp._src.exporting.sparse_kernels.layouts import Layouts
from keras_bimp._src.exporting.sparse_kernels.products import Product
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.replaced_calls import replaced


@contextlib.contextmanager
def sparse(model: keras.Model, kernels: Sequence[Candidate]) -> Iterator[None]:
    """Has `model` traced with sparse kernels within this context.

    Args:
        model: A plain, built model on the TensorFlow backend.
        kernels: The kernels to make sparse.
    """
    layouts, functions = Layouts(), []
    for kernel in kernels:
        layer, product = kernel.layer, Product(kernel.matrix())
        functions.append((layer, "call", _call(kernel, product, layouts)))
        if hasattr(kernel.kind, "methods"):
            functions += kernel.kind.methods(layer)
    for layer in layers_in(model) if kernels else ():
        function = passing.function_of(layer)
        if function is not None and "call" not in vars(layer):
            call = functools.partial(function, layer, layouts)
            functions.append((layer, "call", call))
    functions += steps_at_once(model, [kernel.layer for kernel in kernels])
    with replaced(functions):
        yield


def steps_at_once(
    model: keras.Model, chosen: Sequence[keras.Layer]
) -> list[tuple]:
    """Returns calls for `TimeDistributed` layers, as for `calls.replaced`."""
    known = {id(layer) for layer in chosen}
    return [
        (layer, "call", functools.partial(passing.time_distributed, layer))
        for layer in layers_in(model)
        if type(layer) is layers.TimeDistributed
        and "call" not in vars(layer)
        and any(id(inner) in known for inner in layers_in(layer))
    ]


def _call(kernel, product, layouts):
    if isinstance(kernel.layer, layers.RNN):
        return functools.partial(
            kernel.kind.call, kernel.computing, product, layouts
        )

    def call(inputs, *args, **kwargs):
        return kernel.kind.call(kernel.computing, product, layouts, inputs)

    return call
