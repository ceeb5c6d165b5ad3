"""Communication between processes that train one model together.

With the JAX backend, `keras.distribution.initialize` lets several processes
train one model, on one machine or many. All run the same program, so all must
call each function here, in the same order.
"""

from collections.abc import Sequence

import keras
import numpy as np


def process_count() -> int:
    """Return how many processes train together."""
    if keras.backend.backend() != "jax":
        return 1
    import jax

    return jax.process_count()


def process_index() -> int:
    """Return the index of this process."""
    if process_count() == 1:
        return 0
    import jax

    return jax.process_index()


def check_alone(what: str) -> None:
    """Raise ValueError if several processes train together.

    Args:
        what: What only a single process can do.
    """
    if process_count() > 1:
        raise ValueError(
            f"{what} must be done in one process. "
            f"Received: {process_count()} processes that train together"
        )


def gathered(numbers: np.ndarray) -> np.ndarray:
    """Gather arrays from all processes.

    Args:
        numbers: Array with one axis, of equal length in all processes and a
            type of 8 bytes.

    Returns:
        Array of shape (processes, length).
    """
    if process_count() == 1:
        return numbers[None]
    from jax.experimental import multihost_utils

    # JAX has no 8-byte types by default.
    words = np.ascontiguousarray(numbers).view(np.uint32)
    words = np.asarray(multihost_utils.process_allgather(words))
    return words.view(numbers.dtype)


def total(numbers: Sequence) -> np.ndarray:
    """Return the elementwise sum over all processes."""
    numbers = np.asarray(numbers)
    wide = np.float64 if numbers.dtype.kind == "f" else np.int64
    return gathered(numbers.astype(wide)).sum(axis=0)


def check_agreement(
    digests: Sequence[int | None], names: Sequence[str]
) -> None:
    """Raise RuntimeError in all processes if their values differ.

    Args:
        digests: Non-negative integers below 2 ** 62, one per value; `None`
            for values that this process does not hold.
        names: Names of the values for the error.
    """
    if process_count() == 1:
        return
    table = gathered(
        np.array([-1 if d is None else d for d in digests], np.int64)
    )
    for name, column in zip(names, table.T, strict=True):
        held = {i: int(d) for i, d in enumerate(column) if d >= 0}
        if len(set(held.values())) > 1:
            raise RuntimeError(
                "All processes must choose the same weights. Received: "
                f"different masks of '{name}' in processes "
                f"{', '.join(map(str, held))}. Give all of them the same "
                "initial weights (`keras.utils.set_random_seed`), data and "
                "arguments, and a `criterion` that depends on nothing else"
            )
