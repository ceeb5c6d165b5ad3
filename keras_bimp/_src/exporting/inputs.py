"""What a model takes, and arrays of that kind."""

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
    """The names of a model's inputs, as `keras.tree.flatten` orders them."""
    return [spec.name for spec in tree.flatten(get_input_signature(model))]


def as_inputs(name: str, data, model: keras.Model) -> list[np.ndarray]:
    """Data that a user gave, as a flat list of arrays of the right types.

    Args:
        name: Of the argument, for the error.
        data: As `predict` takes it: an array, or a list or dict of arrays. For
            a model whose `call` takes several arguments, a list of them.
        model: The model.

    Raises:
        ValueError: If it is not what the model takes.
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
    """A few examples that are made up, and what the model computes of them.

    Numbers are of the range that the model's layers can look up. Where no
    axis is open and the model runs on no such numbers, they are zeros.

    Raises:
        ValueError: If the model runs on none.
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
        remedy="Give some that it runs on: `example_data`",
    )


def has_fixed_batch(model: keras.Model) -> bool:
    """Whether a model is made for one size of batch."""
    return _fixed_batch(model) is not None


def of_several_kinds(
    model: keras.Model, examples: list[np.ndarray] | None = None
) -> list[np.ndarray]:
    """Examples, and made-up ones as they come out of images and of ReLU too.

    What is wrong with integers shows in some only, where values have both
    signs, or one, or many are 0.

    Args:
        model: The model.
        examples: Those that a user gave, if any. They are all that there is
            where the model does not run on others of their shape.
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
    """What a model computes, as `keras.tree.flatten` orders it."""
    with left_as_it_was(model):
        outputs = model(*_as_arguments(model, inputs), training=False)
    return [_as_numpy(y) for y in tree.flatten(outputs)]


def _fixed_batch(model):
    known = getattr(model, "inputs", None) or []
    return next((x.shape[0] for x in tree.flatten(known) if x.shape[0]), None)


def _as_arguments(model, inputs):
    return tree.pack_sequence_as(get_input_signature(model), inputs)


def _as_numpy(y):
    if "bfloat16" in str(y.dtype):  # NumPy's files do not know it.
        y = ops.cast(y, "float32")
    return np.array(ops.convert_to_numpy(y))


def _fits(shape, wanted):
    return (
        len(shape) == len(wanted)
        and shape[0] > 0
        and all(w in (None, n) for n, w in zip(shape, wanted, strict=True))
    )
