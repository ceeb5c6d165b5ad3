"""Private Keras attributes of the graph of a model."""

from collections.abc import Callable

import keras
from keras.src.backend import compute_output_spec
from keras.src.models.functional import Functional

__all__ = ["Functional", "compute_output_spec"]

# The attributes of a Functional model that hold its graph.
OF_THE_GRAPH = frozenset(
    {
        "_inputs",
        "_inputs_struct",
        "_nodes",
        "_nodes_by_depth",
        "_operations",
        "_operations_by_depth",
        "_outputs",
        "_outputs_struct",
    }
)


def graph_of(model: keras.Operation) -> Functional | None:
    """Returns the graph of a built Functional or Sequential model, if any."""
    graph = getattr(model, "_functional", None) or model
    return graph if isinstance(graph, Functional) else None


def inputs_of(model: keras.Model):
    """Returns the nested inputs of a model with a graph, or `None`."""
    return getattr(model, "_inputs_struct", None)


def nodes_of(graph: Functional) -> list:
    """Returns the calls in a graph, in topological order."""
    return [
        node
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in graph._nodes_by_depth[depth]
        if node.operation and not node.is_input
    ]


def operations_of(layer: keras.Layer) -> list[keras.Operation]:
    """Returns the operations of a model with a graph; `[]` for others."""
    return list(getattr(layer, "_operations", ()))


def run_through(graph: Functional, inputs, operation_fn: Callable):
    """Runs a graph with each operation replaced by `operation_fn`."""
    return graph._run_through_graph(inputs, operation_fn=operation_fn)


def maker_of(tensor) -> keras.Operation | None:
    """Returns the operation that produced a tensor of a graph, if any."""
    history = getattr(tensor, "_keras_history", None)
    return None if history is None else history.operation


def is_of_kerass_ops(kind: type) -> bool:
    """Whether a class of operations belongs to `keras.ops`."""
    return kind.__module__.startswith("keras.src.ops.")
