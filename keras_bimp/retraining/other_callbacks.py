"""What may stand beside a plan's callback in the same `fit`."""

import warnings

import keras

# They set learning rates, as the plan does.
_SET_RATES = (
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ReduceLROnPlateau,
)
# They write logs down, those of a plan too if they come after it.
_WRITE_LOGS = (
    keras.callbacks.CSVLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
)


def check_others(callback: keras.callbacks.Callback, callbacks: list) -> None:
    """Raises ValueError if another callback would do the same work, too.

    Warns of those that come too early to see what it logs.

    Args:
        callback: What carries a plan out.
        callbacks: All of the same `fit` in their order, `callback` among them.
    """
    place = callbacks.index(callback)
    before, after = callbacks[:place], callbacks[place + 1 :]
    for other in before + after:
        if isinstance(other, type(callback)):
            raise ValueError(
                "`callbacks` of one `fit` must hold what "
                "`keras_bimp.callbacks` returns only once: two would prune "
                "and set the learning rate against each other"
            )
        if isinstance(other, _SET_RATES):
            raise ValueError(
                "`callbacks` of one `fit` must not hold another callback "
                "that sets the learning rate, which is the plan's in every "
                f"step. Received: {type(other).__name__}"
            )
    early = [type(c).__name__ for c in before if isinstance(c, _WRITE_LOGS)]
    if early:
        warnings.warn(
            f"{', '.join(early)} will not see the logs of "
            "`keras_bimp.callbacks`: list it after them.",
            stacklevel=2,
        )
