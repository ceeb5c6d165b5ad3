"""Private Keras attributes of layers."""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator

import keras
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import in_stateless_scope

__all__ = ["in_stateless_scope"]

# Prefixes of attributes that Keras and TensorFlow use for tracking.
TRACKING = ("_tracker", "_self_", "_auto_config", "_obj_reference_counts")

_OF_THE_SIGNATURE = (
    "_call_signature",
    "call_signature_parameters",
    "_call_has_training_arg",
    "_call_has_mask_arg",
    "_call_has_context_arg",
)


class SavedAsLayer:
    """Mixin for models that are saved as a layer.

    A Functional model would otherwise be saved with its graph, which another
    model holds.
    """

    # Otherwise a KerasHub task tracks nothing on torch until its `__init__`
    # returns.
    _initialized = True

    def _obj_type(self):
        return "Layer"


def layers_in(layer: keras.Layer, include_self: bool = True) -> list:
    """Returns all layers in a layer, at any depth, outer layers first."""
    return list(layer._flatten_layers(include_self=include_self))


def layers_of(layer: keras.Layer) -> list[keras.Layer]:
    """Returns the layers that are attributes of a layer."""
    return layer._layers


def own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """Returns the variables of a layer, without those of its sublayers."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def own_constants(layer: keras.Layer) -> list[keras.Variable]:
    """Returns those of its own variables that no optimizer ever changes."""
    return list(layer._non_trainable_variables)


def sort_own_variables(layer: keras.Layer, key: Callable) -> None:
    """Sorts a layer's own variables, which files identify by position."""
    layer._trainable_variables.sort(key=key)
    layer._non_trainable_variables.sort(key=key)


@contextlib.contextmanager
def more_variables(layer: keras.Layer) -> Iterator[None]:
    """Allows a built layer to create variables within this context."""
    layer._tracker.unlock()
    try:
        yield
    finally:
        layer._tracker.lock()


def own_metrics(layer: keras.Layer) -> list[keras.Metric]:
    """Returns the metrics of a layer, without its compiled metrics."""
    return layer._metrics


def seeds_of(layer: keras.Layer) -> list[keras.Variable]:
    """Returns the states of a layer's own seed generators."""
    return [generator.state for generator in layer._seed_generators]


def states_of(layer: keras.Layer) -> list[keras.Variable]:
    """Returns the states that a recurrent layer keeps between batches."""
    states = keras.tree.flatten(getattr(layer, "states", None))
    return [state for state in states if isinstance(state, keras.Variable)]


def adopt_signature(outer: keras.Layer, inner: keras.Layer) -> None:
    """Makes Keras bind the arguments of `outer` like those of `inner`.

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
    """Computes the next carry and output of an LSTM cell.

    Args:
        cell: The cell.
        gates: Four tensors, the inputs of the gates.
        carry: The previous carry.
    """
    return cell._compute_carry_and_output_fused(gates, carry)


def is_training(layer: keras.Layer) -> bool:
    """Whether the current call of a layer is in training mode."""
    return bool(layer._get_call_context().training)


def is_outermost_call(layer: keras.Layer) -> bool:
    """Whether the running `__call__` began with that of this layer.

    `stateless_call` may run `call` outside of any `__call__`.
    """
    context = global_state.get_global_attribute("current_call_ctx")
    return context is not None and context.entry_layer is layer


def shapes_built_with(layer: keras.Layer) -> dict:
    """Returns argument of `build` -> shape that a layer was built with."""
    return layer._build_shapes_dict or {}


def foreign_classes(layer: keras.Layer) -> dict[str, type]:
    """Returns name -> class for the custom classes in a layer."""
    return {
        type(inner).__name__: type(inner)
        for inner in layers_in(layer)
        if type(inner).__module__.partition(".")[0]
        not in ("keras", "keras_bimp")
    }


def stored_kernel(layer: keras.Layer) -> keras.Variable:
    """Returns the variable of a layer's kernel, without LoRA."""
    return layer._kernel


def stored_embeddings(layer: keras.layers.Embedding) -> keras.Variable:
    """Returns the variable of an `Embedding`'s table."""
    return layer._embeddings


def parts_of_attention(layer: keras.Layer) -> dict[str, keras.Layer]:
    """Returns the dense layers of attention: "query", "key", "value", ..."""
    names = ["query", "key", "value", "gate", "output"]
    found = {name: getattr(layer, f"_{name}_dense", None) for name in names}
    return {name: dense for name, dense in found.items() if dense is not None}


def share_layout(variable: keras.Variable, follower: keras.Variable) -> None:
    """Gives a variable the device layout of another of the same shape."""
    layout = getattr(variable, "_layout", None)
    if layout is not None:
        follower._layout = layout
        follower.assign(follower.value)
