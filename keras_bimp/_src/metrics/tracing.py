"""Records the calls that a model makes, and their shapes."""

import contextlib
import inspect
import warnings
from typing import NamedTuple

import keras
import numpy as np
from keras import tree

from keras_bimp._src.foreign_errors import told
from keras_bimp._src.keras_internals.functional_graphs import (
    compute_output_spec,
)
from keras_bimp._src.keras_internals.functional_graphs import graph_of
from keras_bimp._src.keras_internals.functional_graphs import inputs_of
from keras_bimp._src.keras_internals.functional_graphs import operations_of
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.keras_internals.layers import shapes_built_with
from keras_bimp._src.masking import MaskedModel
from keras_bimp._src.trial_runs import left_as_it_was


class Call(NamedTuple):
    """One call of a layer, or of an operation of a functional model.

    Attributes:
        operation: The layer or operation that was called.
        inputs: Name of each argument -> shape or nested shapes of its tensors.
            Other values are unchanged.
        outputs: Shape or nested shapes of its outputs.

    Example:

    >>> relu = keras.layers.ReLU()
    >>> keras_bimp.metrics.Call(relu, {"inputs": (1, 8)}, (1, 8)).outputs
    (1, 8)
    """

    operation: keras.Operation
    inputs: dict
    outputs: object


def trace_calls(model: keras.Model, input_shape=None) -> tuple[list[Call], int]:
    """Calls a model symbolically, and records its calls.

    Nothing is computed. A layer that runs several times is listed as often.

    Args:
        model: A built model.
        input_shape: Shape of the inputs, the batch first, or a list, tuple or
            dict of shapes if there are several. For a subclassed model it may
            also be a dict from the arguments of `call` to shapes. Or a batch
            of examples, in the same structure, on which the model then runs.
            Defaults to the shape that the model was built with.

    Returns:
        The calls in order, and the number of examples in the batch.

    Raises:
        ValueError: If any size except the batch is unknown, or the model does
            not take inputs of this shape.
    """
    args, kwargs = _arguments(model, input_shape)
    calls = []

    def run(*args, **kwargs):
        # torch starts again if it needs values.
        calls.clear()
        model(*args, **kwargs, training=False)

    with contextlib.ExitStack() as stack:
        # Any warnings were shown when the model was built.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for operation in _operations(model):
            stack.enter_context(_recorded(operation, calls))
        try:
            if is_batch(input_shape):
                stack.enter_context(left_as_it_was(model))
                run(*args, **kwargs)
            else:
                compute_output_spec(run, *args, **kwargs)
        except Exception as error:
            shapes = tree.map_structure(lambda x: x.shape, [*args, kwargs])
            raise ValueError(
                "`input_shape` must match the model's inputs, the batch first. "
                f"Received: input_shape={as_shapes(input_shape)}. Called on "
                f"inputs of shapes {shapes}, the model failed: {told(error)}"
            ) from error
    return calls, tree.flatten((args, kwargs))[0].shape[0]


def input_specs(model: keras.Model, input_shape=None) -> list:
    """Returns the inputs of a model as symbolic tensors.

    The batch has one example unless the model has a fixed batch size.

    Args:
        model: A built model.
        input_shape: See `trace_calls`.

    Returns:
        A list with one `keras.KerasTensor`, or nested tensors, per argument.

    Raises:
        ValueError: If any size except the batch is unknown.
    """
    args, kwargs = _arguments(model, as_shapes(input_shape))
    return [*args, *kwargs.values()]


def is_batch(input_shape) -> bool:
    """Whether the argument `input_shape` is a batch of examples."""
    return any(
        isinstance(x, str) or len(getattr(x, "shape", ()))
        for x in tree.flatten(input_shape)
    )


def as_shapes(input_shape):
    """Returns the shapes of a batch, with size `None`; keeps given shapes."""
    if not is_batch(input_shape):
        return input_shape
    return tree.map_structure(
        lambda x: (None, *x.shape[1:]), _as_arrays(input_shape)
    )


def _as_arrays(batch):
    if any(isinstance(x, str) for x in tree.flatten(batch)):
        return np.array(batch)
    return batch


def _operations(model):
    found = {}
    for layer in layers_in(model):
        found[id(layer)] = layer
        for operation in operations_of(layer):
            found[id(operation)] = operation
    return list(found.values())


@contextlib.contextmanager
def _recorded(operation, calls):
    """Records the calls of one operation within this context."""
    # Keras looks here first, and does not track attributes here.
    attributes = vars(operation)
    names = ["call"]
    if getattr(operation, "quantization_mode", None) is not None:
        names.append("quantized_call")
    before = {name: attributes[name] for name in names if name in attributes}
    signature = inspect.signature(operation.call)
    attributes |= {
        name: _recording(operation, getattr(operation, name), signature, calls)
        for name in names
    }
    try:
        yield
    finally:
        for name in names:
            del attributes[name]
        attributes |= before


def _recording(operation, call, signature, calls):
    def recording(*args, **kwargs):
        outputs = call(*args, **kwargs)
        bound = signature.bind(*args, **kwargs).arguments
        inputs = {name: _shapes(value) for name, value in bound.items()}
        calls.append(Call(operation, inputs, _shapes(outputs)))
        return outputs

    recording.__signature__ = signature
    return recording


def _shapes(value):
    return tree.map_structure(
        lambda x: tuple(x.shape) if hasattr(x, "shape") else x, value
    )


def _arguments(model, input_shape):
    """Returns symbolic arguments of a call, positional and by name."""
    if isinstance(model, MaskedModel):
        model = model.wrapper.layer
    args, kwargs = _built_with(model)
    if is_batch(input_shape):
        batch = _as_arrays(input_shape)
        return ((), batch) if _is_by_name(model, batch) else ((batch,), {})
    if input_shape is not None:
        dtypes = iter([spec.dtype for spec in tree.flatten((args, kwargs))])
        given = tree.map_shape_structure(
            lambda shape: keras.InputSpec(
                shape=shape, dtype=next(dtypes, model.input_dtype)
            ),
            input_shape,
        )
        by_name = _is_by_name(model, given)
        args, kwargs = ((), given) if by_name else ((given,), {})
    if not args and not kwargs:
        raise ValueError(
            "`input_shape` must be given for a model that was never called, "
            "the batch first, such as (None, 32, 32, 3). Received: None"
        )
    specs = tree.flatten((args, kwargs))
    if any(None in spec.shape[1:] for spec in specs):
        shapes = [tuple(spec.shape) for spec in specs]
        raise ValueError(
            "`input_shape` must be given for a model whose inputs have no "
            "fixed size, the batch first: a shape, such as (None, 32, 32, 3), "
            "a list or dict of shapes for several inputs, or a batch of "
            "examples. Received: input_shape="
            f"{shapes[0] if len(shapes) == 1 else shapes}"
        )
    return tree.map_structure(_tensor, (args, kwargs))


def _is_by_name(model, given):
    """Whether a dict has the names of the arguments of `call`."""
    return (
        isinstance(given, dict)
        and inputs_of(model) is None
        and set(given) <= set(inspect.signature(model.call).parameters)
    )


def _built_with(model):
    """Returns the arguments that the model was built with, if known."""
    # For a Sequential model, the Functional model inside.
    inputs = inputs_of(graph_of(model) or model)
    if inputs is not None:
        spec = tree.map_structure(
            lambda x: keras.InputSpec(shape=x.shape, dtype=x.dtype), inputs
        )
        return (spec,), {}
    specs = _as_built(shapes_built_with(model), model.input_dtype)
    if len(specs) > 1:
        return (), {name.removesuffix("_shape"): specs[name] for name in specs}
    return tuple(specs.values()), {}


def _as_built(shapes, dtype):
    """Converts nested shapes to `InputSpec`s, in plain dicts and lists."""
    if isinstance(shapes, dict):
        return {name: _as_built(x, dtype) for name, x in shapes.items()}
    if all(isinstance(x, int | None) for x in shapes):
        # The batch size that it was called with is not fixed.
        return keras.InputSpec(shape=(None, *shapes[1:]), dtype=dtype)
    return [_as_built(x, dtype) for x in shapes]


def _tensor(spec):
    batch, *rest = spec.shape
    return keras.KerasTensor((batch or 1, *rest), spec.dtype)
