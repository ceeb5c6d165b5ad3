"""The inputs of a model, and example arrays for them."""

import keras
import numpy as np
from keras import ops
from keras import tree

from keras_bimp._src.keras_internals.saving import get_input_signature
from keras_bimp._src.trial_runs import check_lengths
from keras_bimp._src.trial_runs import left_as_it_was
from keras_bimp._src.trial_runs import try_inputs
from keras_bimp._src.trial_values import input_values


def input_names(model: keras.Model) -> list[str | None]:
    """Returns the names of a model's inputs, in `keras.tree.flatten` order."""
    return [spec.name for spec in tree.flatten(get_input_signature(model))]


def as_inputs(name: str, data, model: keras.Model) -> list[np.ndarray]:
    """Converts user data to a flat list of arrays of the right types.

    Args:
        name: The name of the argument, for the error.
        data: As `predict` takes it: an array, or a list or dict of arrays. For
            a model whose `call` takes several arguments, a list of them.
        model: The model.

    Raises:
        ValueError: If the data does not match the model's inputs.
    """
    specs = tree.flatten(get_input_signature(model))
    arrays = [
        np.asarray(ops.convert_to_numpy(x) if ops.is_tensor(x) else x)
        for x in tree.flatten(
            data if isinstance(data, list | tuple | dict) else [data]
        )
        if x is not None
    ]
    shapes = [array.shape for array in arrays]
    wanted = [tuple(spec.shape) for spec in specs]
    if (
        len(shapes) != len(wanted)
        or len({shape[:1] for shape in shapes}) != 1
        or not all(map(_fits, shapes, wanted))
    ):
        raise ValueError(
            f"`{name}` must be examples as `predict` takes them, of shapes "
            f"{wanted}. Received: {name} of shapes {shapes}"
        )
    return [
        array.astype(str if spec.dtype == "string" else spec.dtype)
        for array, spec in zip(arrays, specs, strict=True)
    ]


def tried_inputs(
    model: keras.Model,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Generates a few examples, and computes the model's outputs for them.

    Integers are in the range that the model's layers can look up. If all axes
    have a fixed size and the model does not run on such examples, they are
    zeros.

    Raises:
        ValueError: If the model runs on none of them.
    """
    specs = tree.flatten(get_input_signature(model))
    values = input_values(model, [spec.dtype for spec in specs])
    batch = _fixed_batch(model) or 3

    def make(length, make_one):
        rng = np.random.default_rng(0)
        return [
            make_one(
                (batch, *(n or length for n in spec.shape[1:])),
                spec.dtype,
                rng,
                value,
            )
            for spec, value in zip(specs, values, strict=True)
        ]

    def run(inputs):
        check_lengths(model, *_as_arguments(model, inputs))
        return outputs_of(model, inputs)

    return try_inputs(
        make,
        run,
        is_open=not all(all(spec.shape[1:]) for spec in specs),
        remedy="Pass examples that it runs on: `example_data`",
    )


def has_fixed_batch(model: keras.Model) -> bool:
    """Whether a model has a fixed batch size."""
    return _fixed_batch(model) is not None


def of_several_kinds(
    model: keras.Model, examples: list[np.ndarray] | None = None
) -> list[np.ndarray]:
    """Adds generated examples: signed, non-negative, and with many zeros.

    A faulty integer product may show in only one of these kinds.

    Args:
        model: The model.
        examples: The user's examples, if any. Nothing is added to them if the
            model does not run on generated examples of their shape.
    """
    try:
        made_up, _ = tried_inputs(model)
    except ValueError:
        if examples is None:
            raise
        return examples
    kinds = [
        np.concatenate([x, np.abs(x), np.maximum(x, 0)])
        if x.dtype.kind == "f"
        else np.concatenate([x, x, x])
        for x in made_up
    ]
    if examples is None:
        return kinds
    pairs = list(zip(examples, kinds, strict=True))
    if any(one.shape[1:] != other.shape[1:] for one, other in pairs):
        return examples
    return [np.concatenate(pair) for pair in pairs]


def outputs_of(
    model: keras.Model, inputs: list[np.ndarray]
) -> list[np.ndarray]:
    """Returns the outputs of a model, in `keras.tree.flatten` order."""
    with left_as_it_was(model):
        outputs = model(*_as_arguments(model, inputs), training=False)
    return [_as_numpy(y) for y in tree.flatten(outputs)]


def _fixed_batch(model):
    known = getattr(model, "inputs", None) or []
    return next((x.shape[0] for x in tree.flatten(known) if x.shape[0]), None)


def _as_arguments(model, inputs):
    return tree.pack_sequence_as(get_input_signature(model), inputs)


def _as_numpy(y):
    if "bfloat16" in str(y.dtype):  # NumPy files do not support it.
        y = ops.cast(y, "float32")
    return np.array(ops.convert_to_numpy(y))


def _fits(shape, wanted):
    return (
        len(shape) == len(wanted)
        and shape[0] > 0
        and all(w in (None, n) for n, w in zip(shape, wanted, strict=True))
    )
