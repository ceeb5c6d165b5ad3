"""Weights rounded for a packed file.

Kernels and tables become codes of 8 bits with a scale for each index of the
last axis. Vectors keep 11 significant bits, as many as float16 has, and
exponents of float32: no entry is off by more than 1/2048 of itself, and the
other bits, which are zeros then, take no space. Scales keep 8, because codes
are chosen after them and make up for it.
"""

import keras
import numpy as np

from keras_bimp._src.backends import as_array
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.keras_internals.layers import own_constants

_LARGEST = 127
_BITS = 11
_BITS_OF_SCALES = 8
# Of means, in standard deviations. Beyond it, 11 bits are too few for what is
# left when they are taken away.
_FARTHEST = 32


def exact_contents(model: keras.Model) -> set[bytes]:
    """Contents of the weights of a model that must not be rounded.

    That is what training does not change, such as the statistics of
    `Normalization`, which may be large next to what they leave of inputs.
    Those of batch normalization are rounded unless they are so.
    """
    return {
        as_array(variable).tobytes()
        for layer in layers_in(model)
        for variable in own_constants(layer)
        if not (
            isinstance(layer, keras.layers.BatchNormalization)
            and _are_near(layer)
        )
    }


def _are_near(norm):
    mean = as_array(norm.moving_mean).astype(float)
    deviation = as_array(norm.moving_variance).astype(float) + norm.epsilon
    return bool((np.abs(mean) <= _FARTHEST * np.sqrt(deviation)).all())


def rounded(
    name: str, array: np.ndarray, exact: set[bytes]
) -> tuple[np.ndarray, ...]:
    """What is stored of an array of a file of weights.

    Args:
        name: Its name there. What an optimizer remembers stays as it is.
        array: Its content. What is not in 32 bits stays as it is.
        exact: Contents that stay as they are.

    Returns:
        Codes and scales, or one array.
    """
    if (
        array.dtype != np.float32
        or not array.ndim
        or not array.size
        or name.startswith("optimizer/")
        or array.tobytes() in exact
    ):
        return (array,)
    if array.ndim == 1:
        return (_to_few_bits(array),)
    return _codes(array)


def _codes(kernel):
    """Codes and scales of a kernel. 0 has the code 0."""
    axes = tuple(range(kernel.ndim - 1))
    scales = np.abs(kernel).max(axis=axes) / np.float32(_LARGEST)
    scales = _to_few_bits(scales, _BITS_OF_SCALES)
    # Of a scale that is 0, or too small to divide by, all codes are 0.
    safe = np.where(scales < np.finfo("float32").tiny, np.inf, scales)
    return np.rint(kernel / safe).astype("int8"), scales


def _to_few_bits(vector, bits=_BITS):
    """The nearest numbers of so many significant bits."""
    mantissas, exponents = np.frexp(vector)
    whole = np.rint(np.ldexp(mantissas, bits))
    with np.errstate(over="ignore"):
        near = np.ldexp(whole, exponents - bits).astype("float32")
    return np.where(np.isfinite(near), near, vector)


def restored(
    shape: tuple[int, ...], one: np.ndarray, other: np.ndarray
) -> np.ndarray:
    """The kernel of a shape that codes and scales, in any order, stand for."""
    codes, scales = (one, other) if one.dtype == np.int8 else (other, one)
    return codes.reshape(shape).astype("float32") * scales
