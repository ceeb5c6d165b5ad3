"""The history of a training, as a report tells it."""

import math

import keras
import numpy as np

from keras_bimp._src.reporting.facts import Phase


def numbers(
    history: keras.callbacks.History | dict | None,
) -> tuple[dict[str, list], list[tuple[str, str]]]:
    """Name -> one number per epoch, `None` for what is no finite number.

    Returns:
        These, and pairs of what is left out and why.

    Raises:
        TypeError: If `history` is none.
    """
    logs = {} if history is None else getattr(history, "history", history)
    if not isinstance(logs, dict) or not all(
        isinstance(values, list | tuple) for values in logs.values()
    ):
        raise TypeError(
            "`history` must be what `fit` returned, or its `history`. "
            f"Received: {type(history).__name__}"
        )
    logs = {
        name: [_number(value) for value in values]
        for name, values in logs.items()
        if all(np.ndim(value) == 0 for value in values)
    }
    epochs = max(map(len, logs.values()), default=0)
    missing = [
        (
            f"History of {name}",
            f"it has {len(values)} values for {epochs} epochs, and does not "
            "say for which (validation_freq)",
        )
        for name, values in logs.items()
        if len(values) < epochs
    ]
    kept = {name: v for name, v in logs.items() if len(v) == epochs}
    return kept, missing


def phases(history: dict[str, list]) -> tuple[Phase, ...]:
    """The phases that the logs of a plan tell."""
    cycles = history.get("cycle", [])
    begins = [
        epoch
        for epoch, cycle in enumerate(cycles)
        if not epoch or cycle != cycles[epoch - 1]
    ]
    ends = [*begins, len(cycles)][1:]
    return tuple(
        Phase(
            f"cycle {cycles[begin]:.0f}" if cycles[begin] else "dense",
            begin,
            end,
        )
        for begin, end in zip(begins, ends, strict=False)
    )


def _number(value):
    try:
        value = float(value)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
