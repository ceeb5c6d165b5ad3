"""Trial runs: a model on inputs that are made up, left as it was."""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator

import keras
import numpy as np
from keras import tree

from keras_bimp.backends import as_array

# Of axes whose length is not fixed, until the model runs.
_LENGTHS = (32, 64, 128, 256)


def random_input(
    shape: tuple[int, ...], dtype: str, rng: np.random.Generator
) -> np.ndarray:
    """An array for one input of a model.

    Args:
        shape: Its shape.
        dtype: As Keras names it.
        rng: Where random numbers come from.

    Returns:
        Random floats; the text "a" for strings; zeros for all else, which may
        number something.
    """
    if dtype == "string":
        return np.full(shape, "a")
    if "float" in dtype:
        return rng.standard_normal(shape).astype(dtype)
    return np.zeros(shape, dtype)


def try_lengths(make: Callable, run: Callable):
    """Makes inputs with longer and longer axes until a model runs on them.

    Args:
        make: Callable length -> inputs, where the length is that of every axis
            that is not fixed.
        run: Callable of inputs.

    Returns:
        These inputs, and what `run` returned.

    Raises:
        ValueError: If it runs on none.
    """
    for length in _LENGTHS:
        inputs = make(length)
        try:
            return inputs, run(inputs)
        except Exception as error:
            why = error
    raise ValueError(
        "`model` must run on inputs whose axes of unknown length are "
        f"{', '.join(map(str, _LENGTHS))} long: on one of these. Received: "
        f"a model that says: {' '.join(str(why).split())[:300]}"
    ) from why


def check_lengths(model: keras.Model, *args) -> None:
    """Raises where axes of a model are too short for its layers.

    TensorFlow on a CPU may not: a convolution then returns whatever its memory
    held.

    Args:
        model: Only a Functional or Sequential one is looked at.
        *args: What it is called with: arrays, or structures of them.

    Raises:
        ValueError: Keras', when it infers shapes.
    """
    if getattr(model, "inputs", None):
        model.compute_output_spec(*tree.map_structure(_without_values, args))


def _without_values(x):
    is_text = getattr(x.dtype, "kind", None) == "U"  # Of NumPy.
    dtype = "string" if is_text else keras.backend.standardize_dtype(x.dtype)
    return keras.KerasTensor(tuple(x.shape), dtype)


@contextlib.contextmanager
def left_as_it_was(model: keras.Model) -> Iterator[None]:
    """Gives a model back what running it changes: states, statistics, seeds."""
    variables = {
        id(variable): variable
        for variable in [
            *model.non_trainable_variables,
            *_states(model),
            *_seeds(model),
        ]
    }.values()
    before = [np.array(as_array(variable)) for variable in variables]
    try:
        yield
    finally:
        for variable, array in zip(variables, before, strict=True):
            variable.assign(array)


def _states(model):
    for layer in model._flatten_layers():
        if getattr(layer, "stateful", False):
            yield from tree.flatten(getattr(layer, "states", None) or [])


def _seeds(model):
    for layer in model._flatten_layers():
        for generator in getattr(layer, "_seed_generators", []):
            yield generator.state
