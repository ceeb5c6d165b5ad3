"""Time functions in turns."""

import time
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

_WARM = 2


def in_turns(
    functions: Sequence[Callable],
    seconds: float,
    rounds: tuple[int, int],
) -> np.ndarray:
    """Return the seconds of each call: a row per function, a column per round.

    Args:
        functions: Callables without arguments.
        seconds: Time for all rounds together.
        rounds: Minimum and maximum number of rounds.
    """
    for function in functions:
        for _ in range(_WARM):
            function()
    begin = time.perf_counter()
    rows = []
    while len(rows) < rounds[1] and (
        len(rows) < rounds[0] or time.perf_counter() - begin < seconds
    ):
        row = []
        # The order alternates between rounds.
        order = range(len(functions))
        for i in order if len(rows) % 2 else reversed(order):
            start = time.perf_counter()
            functions[i]()
            row.append((i, time.perf_counter() - start))
        rows.append([spent for _, spent in sorted(row)])
    return np.array(rows).T
