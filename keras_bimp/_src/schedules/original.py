"""The rates of an original training, or of any schedule, as an array."""

import logging

import numpy as np
from keras import ops

from keras_bimp._src.checks import check_integer
from keras_bimp._src.schedules.joined import Joined
from keras_bimp._src.schedules.schedule import Schedule


def original_rates(original, name: str = "original") -> np.ndarray:
    """The rates of an original training as a float64 array.

    Args:
        original: An array with one rate per iteration; an object whose method
            `values()` returns one, as `Recorded` and `RecordLearningRate`; or
            a pair `(schedule, steps)`.
        name: What messages call it.

    Returns:
        A 1-dimensional float64 array of at least one rate.

    Raises:
        ValueError: If `original` is none of these, or a rate is negative or
            not finite.
    """
    if (
        isinstance(original, tuple)
        and len(original) == 2
        and callable(original[0])
    ):
        return schedule_values(original[0], original[1])
    if original is None:
        raise ValueError(
            f"`{name}`, the learning rates of the original training, is "
            "needed by this schedule: an array with one rate per iteration, "
            "a `RecordLearningRate`, or a pair (schedule, steps). "
            f"Received: {name}=None"
        )
    rates = original.values() if _has_values(original) else original
    try:
        rates = np.array(rates, dtype="float64")
    except (TypeError, ValueError):
        rates = np.empty(0)
    if rates.ndim != 1 or not len(rates):
        raise ValueError(
            f"`{name}` must be an array of learning rates, one per "
            "iteration, a `RecordLearningRate` that has recorded some, or a "
            f"pair (schedule, steps). Received: {name}={original!r}"
        )
    if not (np.isfinite(rates).all() and (rates >= 0).all()):
        raise ValueError(
            f"`{name}` must hold finite rates >= 0. "
            f"Received: {name}={original!r}"
        )
    return rates


def _has_values(original):
    return not isinstance(original, dict) and callable(
        getattr(original, "values", None)
    )


def schedule_values(schedule, steps: int, start: int = 0) -> np.ndarray:
    """The rates of any Keras schedule over some iterations.

    Args:
        schedule: A `LearningRateSchedule`.
        steps: Integer >= 1, the number of iterations.
        start: Integer >= 0, the first of them.

    Returns:
        A float64 array of `steps` rates.

    Raises:
        TypeError: If `steps` is not an integer.
        ValueError: If `steps` is less than 1.

    Example:

    >>> from keras_bimp._src.schedules import schedule_values
    >>> schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 4, 0.0)
    >>> schedule_values(schedule, steps=2, start=1)
    array([0.75, 0.5 ])
    """
    steps = check_integer("steps", steps, minimum=1)
    if isinstance(schedule, Schedule):
        values = schedule.values()[start : start + steps]
        if not len(values):
            values = schedule.values()[-1:]
        return np.pad(values, (0, steps - len(values)), mode="edge")
    if isinstance(schedule, Joined):
        return _joined_values(schedule, steps, start)
    iterations = start + ops.arange(steps)
    # TensorFlow would warn of tracing what it traces once for each schedule.
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        rates = ops.convert_to_numpy(ops.vectorized_map(schedule, iterations))
    except Exception:  # Not every schedule can be vectorized.
        rates = [float(schedule(i)) for i in iterations]
    finally:
        logger.setLevel(level)
    return np.asarray(rates, dtype="float64").reshape(steps)


def _joined_values(joined, steps, start):
    rates, end = np.empty(steps), steps
    for i in reversed(range(len(joined.schedules))):
        begin = joined.began_at(i)
        before = min(max(begin - start, 0), end)
        if before < end:
            rates[before:end] = schedule_values(
                joined.schedules[i], end - before, max(start - begin, 0)
            )
        end = before
    if end:  # The first one has not begun.
        rates[:end] = schedule_values(joined.schedules[0], 1)
    return rates
