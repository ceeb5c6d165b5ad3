"""Check which callbacks can be combined with pruning in one `fit`."""

import itertools
import warnings

import keras

from keras_bimp._src.backup import Resumable
from keras_bimp._src.backup.backup_callback import check_places

# Callbacks that set the learning rate, like a plan.
_SET_RATES = (
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ReduceLROnPlateau,
)
# Callbacks that write logs. They must come after a plan to see its logs.
_WRITE_LOGS = (
    keras.callbacks.CSVLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
)


def check_others(callback: Resumable, callbacks: list, kind: type) -> None:
    """Raise ValueError if another callback prunes in the same `fit`.

    Args:
        callback: The pruning callback.
        callbacks: All callbacks of the `fit` in order, including `callback`.
        kind: The base class of pruning callbacks.
    """
    check_places(callbacks)
    place = callbacks.index(callback)
    for other in callbacks[:place] + callbacks[place + 1 :]:
        if isinstance(other, kind):
            raise ValueError(
                "`callbacks` of one `fit` must hold the result of "
                "`keras_bimp.callbacks` or of one recipe, and only once: two "
                "pruning callbacks would conflict. Received: "
                f"{type(other).__name__} beside {type(callback).__name__}"
            )


def check_plans(callback: Resumable, callbacks: list) -> None:
    """Raise ValueError if another callback sets the learning rate.

    Warns if callbacks that write logs come before `callback`.
    """
    for other in callbacks:
        if isinstance(other, _SET_RATES):
            raise ValueError(
                "`callbacks` of one `fit` must not hold another callback "
                "that sets the learning rate, because the plan sets it in "
                f"every step: remove it. Received: {type(other).__name__}"
            )
    before = callbacks[: callbacks.index(callback)]
    early = [type(c).__name__ for c in before if isinstance(c, _WRITE_LOGS)]
    if early:
        warnings.warn(
            f"{', '.join(early)} will not see the logs of "
            "`keras_bimp.callbacks`: list it after them.",
            stacklevel=2,
        )


def warn_of_early_stopping(prunings: list[int], callbacks: list) -> None:
    """Warn if an `EarlyStopping` can end a run before its last pruning.

    Args:
        prunings: The epochs that begin with a pruning, in order. At each, the
            comparison of `EarlyStopping` restarts.
        callbacks: All callbacks of the `fit`.
    """
    for other in callbacks:
        if not isinstance(other, keras.callbacks.EarlyStopping):
            continue
        compared = [
            end - max(start, other.start_from_epoch)
            for start, end in itertools.pairwise([0, *prunings])
        ]
        longest = max(compared, default=0)
        if longest > max(other.patience, 1):
            warnings.warn(
                "`EarlyStopping` may end the training before the last "
                "pruning, and so below the target sparsity: pass "
                f"start_from_epoch={prunings[-1]}, which is the epoch of "
                f"that pruning, or patience={longest} or more.",
                stacklevel=2,
            )
