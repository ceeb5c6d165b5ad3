"""What several processes that train one model together tell each other.

With the JAX backend, `keras.distribution.initialize` makes several processes,
on one machine or many, train one model. All of them run the same program, so
each function here must be called by all of them, in the same order.
"""

from collections.abc import Sequence

import keras
import numpy as np


def process_count() -> int:
    """How many processes train together."""
    if keras.backend.backend() != "jax":
        return 1
    import jax

    return jax.process_count()


def process_index() -> int:
    """Which of them this one is."""
    if process_count() == 1:
        return 0
    import jax

    return jax.process_index()


def check_alone(what: str) -> None:
    """Raises ValueError if several processes train together.

    Args:
        what: What one process only can do.
    """
    if process_count() > 1:
        raise ValueError(
            f"{what} must be done in one process. "
            f"Received: {process_count()} processes that train together"
        )


def gathered(numbers: np.ndarray) -> np.ndarray:
    """What each process holds, for all to see.

    Args:
        numbers: Array of one axis, of the same length everywhere, of a type
            of 8 bytes.

    Returns:
        Array of shape (processes, length).
    """
    if process_count() == 1:
        return numbers[None]
    from jax.experimental import multihost_utils

    # JAX has no type of 8 bytes unless told so.
    words = np.ascontiguousarray(numbers).view(np.uint32)
    words = np.asarray(multihost_utils.process_allgather(words))
    return words.view(numbers.dtype)


def total(numbers: Sequence) -> np.ndarray:
    """The sum over all processes, entry by entry, the same everywhere."""
    numbers = np.asarray(numbers)
    wide = np.float64 if numbers.dtype.kind == "f" else np.int64
    return gathered(numbers.astype(wide)).sum(axis=0)


def check_agreement(
    digests: Sequence[int | None], names: Sequence[str]
) -> None:
    """Raises RuntimeError, in all processes, if they hold different things.

    Args:
        digests: Non-negative integers below 2 ** 62, one per thing; `None`
            for what this process does not hold.
        names: What to call the things in the error.
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
