"""Inputs that are made up, to run a model on."""

import numpy as np


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
