"""Argument checks that several modules share."""

import math
import numbers


def check_sparsity(name: str, value) -> float:
    """Return `value` as a float; raise unless it is a sparsity in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"`{name}` must be a number in [0, 1). "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    if not 0 <= value < 1:  # False for NaN.
        raise ValueError(
            f"`{name}` must be a number in [0, 1). Received: {name}={value}"
        )
    return float(value)


def check_integer(name: str, value, minimum: int) -> int:
    """Return `value` as an int; raise if it is below `minimum`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"`{name}` must be an integer. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    if value < minimum:
        raise ValueError(
            f"`{name}` must be at least {minimum}. Received: {name}={value}"
        )
    return int(value)


def check_rate(name: str, value) -> float:
    """Return `value` as a float; raise unless it is finite and >= 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"`{name}` must be a number. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(
            f"`{name}` must be finite and >= 0. Received: {name}={value}"
        )
    return float(value)


def check_positive(name: str, value) -> float:
    """Return `value` as a float; raise unless it is finite and > 0."""
    if not check_rate(name, value) > 0:
        raise ValueError(f"`{name}` must be > 0. Received: {name}={value}")
    return float(value)


def check_choice(name: str, value, choices):
    """Raise unless the string `value` is one of `choices`, and list them."""
    if isinstance(value, str) and value in choices:
        return
    known = ", ".join(repr(choice) for choice in choices)
    raise ValueError(
        f"`{name}` must be one of {known}. Received: {name}={value!r}"
    )
