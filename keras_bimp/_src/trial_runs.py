"""Trial runs: a model on inputs that are made up, left as it was."""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator

import keras
import numpy as np
from keras import tree

from keras_bimp._src.backends import put_back
from keras_bimp._src.foreign_errors import told
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.keras_internals.layers import seeds_of
from keras_bimp._src.keras_internals.layers import states_of
from keras_bimp._src.trial_values import Numbers

# Of axes whose length is not fixed, until the model runs. Short ones come last,
# for they leave less to see.
_LENGTHS = (32, 64, 128, 256, 16, 8, 4, 2, 1)


def random_input(
    shape: tuple[int, ...], dtype: str, rng: np.random.Generator, values=None
) -> np.ndarray:
    """An array for one input of a model.

    Args:
        shape: Its shape.
        dtype: As Keras names it.
        rng: Where random numbers come from.
        values: What `input_values` knows of it.

    Returns:
        What `values` draws. Where that is `None`, random floats; the text "a"
        for strings; all numbers of a `uint8`, which are those of images; and
        for other types ones that end in zeros, as what says which steps count.
    """
    if values is not None:
        return values.draw(shape, dtype, rng)
    if dtype == "string":
        return np.full(shape, "a")
    if "float" in dtype:
        return rng.standard_normal(shape).astype(dtype)
    if dtype == "uint8":
        return rng.integers(0, 256, shape).astype(dtype)
    return Numbers(2).draw(shape, dtype, rng)


def careful_input(
    shape: tuple[int, ...], dtype: str, rng: np.random.Generator, values=None
) -> np.ndarray:
    """What `random_input` returns, but zeros where entries number something."""
    if dtype == "string" or ("float" in dtype and values is None):
        return random_input(shape, dtype, rng)
    return np.zeros(shape, dtype)


def try_inputs(make: Callable, run: Callable, is_open: bool, remedy: str):
    """Makes inputs of several lengths until a model runs on them.

    Args:
        make: Callable (length, make one) -> inputs, where the length is that
            of every axis that is not fixed, and one array is made by
            `random_input` or, where a model runs on none of those or returns
            what is not finite, by `careful_input`.
        run: Callable of inputs.
        is_open: Whether the length of any axis is not fixed.
        remedy: What to do where it runs on none: a sentence for the error.

    Returns:
        These inputs, and what `run` returned.

    Raises:
        ValueError: If it runs on none.
    """
    why = fallback = None
    lengths = _LENGTHS if is_open else (None,)
    for make_one in (random_input, careful_input):
        for length in lengths:
            inputs = make(length, make_one)
            try:
                found = run(inputs)
            except Exception as error:
                why = why or error
                continue
            if _all_finite(found):
                return inputs, found
            fallback = fallback or (inputs, found)
            break
    if fallback is not None:
        return fallback
    tried = ""
    if is_open:
        tried = (
            ", whose axes of unknown length are "
            f"{', '.join(map(str, sorted(_LENGTHS)))} long: on one of these"
        )
    raise ValueError(
        f"`model` must run on inputs that are made up{tried}. {remedy}. "
        f"Received: a model that says: {told(why)}"
    ) from why


def _all_finite(found):
    return all(
        np.isfinite(np.asarray(y, "float64")).all()
        for y in tree.flatten(found)
        if np.asarray(y).dtype.kind in "fV"
    )


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
    variables = list(model.non_trainable_variables)
    for layer in layers_in(model):
        variables += [*states_of(layer), *seeds_of(layer)]
    with put_back(variables):
        yield
