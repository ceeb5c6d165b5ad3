"""The number of steps per epoch."""


def steps_of_epoch(given: int | None, params: dict) -> int:
    """Return the steps per epoch, which callbacks need in advance.

    Args:
        given: The user's `steps_per_epoch`, or `None`.
        params: The `params` of a Keras callback.

    Raises:
        ValueError: If the number is unknown, or the two disagree.
    """
    known = params.get("steps")
    steps = given or known
    if known not in (None, steps):
        raise ValueError(
            "`steps_per_epoch` must match that of `fit`, or not be given. "
            f"Received: steps_per_epoch={steps}, but `fit` runs {known}"
        )
    if steps is None:
        raise ValueError(
            "`steps_per_epoch` must be given to `keras_bimp.callbacks`, "
            "because the data has no known length. "
            "Received: steps_per_epoch=None"
        )
    return steps
