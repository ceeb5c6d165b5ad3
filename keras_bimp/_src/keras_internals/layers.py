"""What Keras keeps of a layer."""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator

import keras
from keras.src.backend.common.stateless_scope import in_stateless_scope

__all__ = ["in_stateless_scope"]

# What Keras and TensorFlow keep of the attributes of an object themselves.
TRACKING = ("_tracker", "_self_", "_auto_config", "_obj_reference_counts")

_OF_THE_SIGNATURE = (
    "_call_signature",
    "call_signature_parameters",
    "_call_has_training_arg",
    "_call_has_mask_arg",
    "_call_has_context_arg",
)


class SavedAsLayer:
    """A base of models that are saved as a layer is, whatever else they are.

    Not as a Functional model, say, whose graph another one holds.
    """

    # Else a task of KerasHub tracks nothing on torch until its own
    # `__init__` is over.
    _initialized = True

    def _obj_type(self):
        return "Layer"


def layers_in(layer: keras.Layer, include_self: bool = True) -> list:
    """All layers in a layer, however deep, those outside first."""
    return list(layer._flatten_layers(include_self=include_self))


def layers_of(layer: keras.Layer) -> list[keras.Layer]:
    """The layers that are attributes of a layer."""
    return layer._layers


def own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """The variables of a layer alone, not of those inside it."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def sort_own_variables(layer: keras.Layer, key: Callable) -> None:
    """Sorts the variables of a layer alone, which files know by position."""
    layer._trainable_variables.sort(key=key)
    layer._non_trainable_variables.sort(key=key)


@contextlib.contextmanager
def more_variables(layer: keras.Layer) -> Iterator[None]:
    """Lets a layer that is built make variables."""
    layer._tracker.unlock()
    try:
        yield
    finally:
        layer._tracker.lock()


def own_metrics(layer: keras.Layer) -> list[keras.Metric]:
    """The metrics of a layer alone, not those it is compiled with."""
    return layer._metrics


def seeds_of(layer: keras.Layer) -> list[keras.Variable]:
    """The states of the generators of random numbers of a layer alone."""
    return [generator.state for generator in layer._seed_generators]


def states_of(layer: keras.Layer) -> list[keras.Variable]:
    """What a stateful recurrent layer keeps from batch to batch."""
    states = keras.tree.flatten(getattr(layer, "states", None))
    return [state for state in states if isinstance(state, keras.Variable)]


def adopt_signature(outer: keras.Layer, inner: keras.Layer) -> None:
    """Makes Keras bind the arguments of `outer` as it does those of `inner`.

    Keras reads the signature of `call` once, in `Layer.__init__`.
    """
    for name in _OF_THE_SIGNATURE:
        if hasattr(inner, name):
            setattr(outer, name, getattr(inner, name))


def takes_training(layer: keras.Layer) -> bool:
    """Whether the `call` of a layer takes an argument `training`."""
    return layer._call_has_training_arg


def takes_mask(layer: keras.Layer) -> bool:
    """Whether the `call` of a layer takes an argument `mask`."""
    return layer._call_has_mask_arg


def carry_and_output(cell: keras.layers.LSTMCell, gates: list, carry) -> tuple:
    """The next carry of a cell, and what its output gate lets out of it.

    Args:
        cell: The cell.
        gates: Four tensors, what the gates are computed of.
        carry: The carry before.
    """
    return cell._compute_carry_and_output_fused(gates, carry)


def is_training(layer: keras.Layer) -> bool:
    """Whether the call of a layer that runs now is one of training."""
    return bool(layer._get_call_context().training)


def shapes_built_with(layer: keras.Layer) -> dict:
    """The shapes that a layer was built with, by argument of `build`."""
    return layer._build_shapes_dict or {}


def foreign_classes(layer: keras.Layer) -> dict[str, type]:
    """The classes in a layer by name, without those of Keras and ours."""
    return {
        type(inner).__name__: type(inner)
        for inner in layers_in(layer)
        if type(inner).__module__.partition(".")[0]
        not in ("keras", "keras_bimp")
    }


def stored_kernel(layer: keras.Layer) -> keras.Variable:
    """The variable behind the kernel of a layer, whatever is added to it."""
    return layer._kernel


def stored_embeddings(layer: keras.layers.Embedding) -> keras.Variable:
    """The variable behind the table of an `Embedding`."""
    return layer._embeddings


def parts_of_attention(layer: keras.Layer) -> dict[str, keras.Layer]:
    """The dense layers of an attention: "query", "key", "value", ..."""
    names = ["query", "key", "value", "gate", "output"]
    found = {name: getattr(layer, f"_{name}_dense", None) for name in names}
    return {name: dense for name, dense in found.items() if dense is not None}


def share_layout(variable: keras.Variable, follower: keras.Variable) -> None:
    """Spreads a variable over devices as another of its shape is spread."""
    layout = getattr(variable, "_layout", None)
    if layout is not None:
        follower._layout = layout
        follower.assign(follower.value)
