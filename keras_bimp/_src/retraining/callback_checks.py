"""What may stand beside a callback that prunes in the same `fit`."""

import warnings

import keras

from keras_bimp._src.backup import Resumable
from keras_bimp._src.backup.backup_callback import check_places

# They set learning rates, as a plan does.
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


def check_others(callback: Resumable, callbacks: list, kind: type) -> None:
    """Raises ValueError if another callback would do the same work, too.

    Args:
        callback: What prunes.
        callbacks: All of the same `fit` in their order, `callback` among them.
        kind: The class of what prunes.
    """
    check_places(callbacks)
    place = callbacks.index(callback)
    for other in callbacks[:place] + callbacks[place + 1 :]:
        if isinstance(other, kind):
            raise ValueError(
                "`callbacks` of one `fit` must hold what "
                "`keras_bimp.callbacks` returns, or those of one recipe, and "
                "only once: two would prune against each other. Received: "
                f"{type(other).__name__} beside {type(callback).__name__}"
            )


def check_plans(callback: Resumable, callbacks: list) -> None:
    """The same for a callback that sets the learning rate and adds to logs.

    Warns of those that come too early to see what it logs.
    """
    for other in callbacks:
        if isinstance(other, _SET_RATES):
            raise ValueError(
                "`callbacks` of one `fit` must not hold another callback "
                "that sets the learning rate, which is the plan's in every "
                f"step. Received: {type(other).__name__}"
            )
    before = callbacks[: callbacks.index(callback)]
    early = [type(c).__name__ for c in before if isinstance(c, _WRITE_LOGS)]
    if early:
        warnings.warn(
            f"{', '.join(early)} will not see the logs of "
            "`keras_bimp.callbacks`: list it after them.",
            stacklevel=2,
        )
