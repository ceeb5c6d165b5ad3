"""How many steps an epoch of a `fit` has."""


def steps_of_epoch(given: int | None, params: dict) -> int:
    """The number of steps, which callbacks must know before the first.

    Args:
        given: What the user says it is, or `None`.
        params: What `fit` tells its callbacks.

    Raises:
        ValueError: If nobody says it, or two say different numbers.
    """
    known = params.get("steps")
    steps = given or known
    if known not in (None, steps):
        raise ValueError(
            "`steps_per_epoch` must be that of `fit`, or not be given. "
            f"Received: steps_per_epoch={steps}, but `fit` runs {known}"
        )
    if steps is None:
        raise ValueError(
            "`steps_per_epoch` must be given to `keras_bimp.callbacks`, "
            "because the data has no known length. "
            "Received: steps_per_epoch=None"
        )
    return steps
