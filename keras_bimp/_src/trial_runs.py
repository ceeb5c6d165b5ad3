"""Trial runs of a model on generated inputs, without side effects."""

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

# Lengths to try for axes that are not fixed, until the model runs. Short ones
# come last, because they reveal less.
_LENGTHS = (32, 64, 128, 256, 16, 8, 4, 2, 1)


def random_input(
    shape: tuple[int, ...], dtype: str, rng: np.random.Generator, values=None
) -> np.ndarray:
    """Generate an array for one input of a model.

    Args:
        shape: Its shape.
        dtype: Its Keras dtype.
        rng: Random number generator.
        values: The entry for this input from `input_values`.

    Returns:
        An array drawn by `values`. If that is `None`: random floats; the text
        "a" for strings; any numbers for `uint8`, as in images; and for other
        types ones, with zeros at the end, like a padding mask.
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
    """Generate like `random_input`, but with 0 where entries are indices."""
    if dtype == "string" or ("float" in dtype and values is None):
        return random_input(shape, dtype, rng)
    return np.zeros(shape, dtype)


def try_inputs(make: Callable, run: Callable, is_open: bool, remedy: str):
    """Generate inputs of several lengths until a model runs on them.

    Args:
        make: Callable (length, make one) -> inputs. All axes that are not
            fixed get the length. Each array is made by `random_input`, or by
            `careful_input` if the model fails on those or its outputs are not
            finite.
        run: Callable of inputs.
        is_open: Whether any axis is not fixed.
        remedy: Sentence for the error that says what to do.

    Returns:
        The inputs, and the result of `run`.

    Raises:
        ValueError: If the model runs on none.
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
            ", with axes of unknown length set to "
            f"{', '.join(map(str, sorted(_LENGTHS)))}: on one of these"
        )
    raise ValueError(
        f"`model` must run on generated inputs{tried}. {remedy}. "
        f"Received: a model that fails with: {told(why)}"
    ) from why


def _all_finite(found):
    return all(
        np.isfinite(np.asarray(y, "float64")).all()
        for y in tree.flatten(found)
        if np.asarray(y).dtype.kind in "fV"
    )


def check_lengths(model: keras.Model, *args) -> None:
    """Raise if axes of a model's inputs are too short for its layers.

    TensorFlow may not raise on a CPU: a convolution then returns uninitialized
    memory.

    Args:
        model: Only Functional and Sequential models are checked.
        *args: Its inputs: arrays, or structures of them.

    Raises:
        ValueError: From Keras' shape inference.
    """
    if getattr(model, "inputs", None):
        model.compute_output_spec(*tree.map_structure(_without_values, args))


def _without_values(x):
    is_text = getattr(x.dtype, "kind", None) == "U"  # NumPy text.
    dtype = "string" if is_text else keras.backend.standardize_dtype(x.dtype)
    return keras.KerasTensor(tuple(x.shape), dtype)


@contextlib.contextmanager
def left_as_it_was(model: keras.Model) -> Iterator[None]:
    """Restore what running a model changes: states, statistics, seeds."""
    variables = list(model.non_trainable_variables)
    for layer in layers_in(model):
        variables += [*states_of(layer), *seeds_of(layer)]
    with put_back(variables):
        yield
