"""Kernels rounded to 8 bits, with a scale for each index of the last axis."""

import numpy as np

_LARGEST = 127


def is_rounded(name: str, array: np.ndarray) -> bool:
    """Whether an array of a file of weights is a kernel or table in 32 bits.

    What an optimizer remembers is not.
    """
    return (
        array.ndim > 1
        and array.dtype == np.float32
        and array.size > 0
        and not name.startswith("optimizer/")
    )


def rounded(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales of a kernel. 0 has the code 0.

    Args:
        kernel: An array of float32.

    Returns:
        An array of int8, and a flat one of float32.
    """
    axes = tuple(range(kernel.ndim - 1))
    scales = np.abs(kernel).max(axis=axes) / np.float32(_LARGEST)
    # Of a scale that is 0, or too small to divide by, all codes are 0.
    safe = np.where(scales < np.finfo("float32").tiny, np.inf, scales)
    return np.rint(kernel / safe).astype("int8"), scales.astype("float32")


def restored(
    shape: tuple[int, ...], one: np.ndarray, other: np.ndarray
) -> np.ndarray:
    """The kernel of a shape that codes and scales, in any order, stand for."""
    codes, scales = (one, other) if one.dtype == np.int8 else (other, one)
    return codes.reshape(shape).astype("float32") * scales
