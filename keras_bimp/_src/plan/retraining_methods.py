"""Retraining methods, by name."""

import dataclasses
import functools
import inspect
from collections.abc import Callable

from keras.optimizers.schedules import LearningRateSchedule

from keras_bimp._src.checks import check_choice
from keras_bimp._src.schedules import ALLR
from keras_bimp._src.schedules import CLR
from keras_bimp._src.schedules import FT
from keras_bimp._src.schedules import LLR
from keras_bimp._src.schedules import LRW
from keras_bimp._src.schedules import SLR
from keras_bimp._src.schedules import Constant
from keras_bimp._src.schedules import Cosine
from keras_bimp._src.schedules import Linear
from keras_bimp._src.schedules import Schedule
from keras_bimp._src.schedules import Stepped
from keras_bimp._src.schedules import discount_factor

_BOTH = "max(d1, d2)"
_TOLD = ("original", "peak", "steps", "discount")


def _by_change(change, fraction, retrain_epochs, original_epochs):
    return discount_factor(change, fraction, retrain_epochs, None)


def _by_length(change, fraction, retrain_epochs, original_epochs):
    return discount_factor(0.0, 0.0, retrain_epochs, original_epochs)


@dataclasses.dataclass(frozen=True)
class Retraining:
    """A retraining method.

    Args:
        schedule: Callable that returns the `LearningRateSchedule` of a cycle.
            It is passed those of the keyword arguments `original`, `peak`,
            `steps` and `discount` that it accepts; see `Plan.bimp`.
        discount: Callable with the arguments of `discount_factor` that returns
            the tuple `(d1, d2, d)`.
        formula: The formula of `discount`, for the plan; empty if `schedule`
            does not use it.
        needs_length: Whether it needs the length of the original training.
        by_accuracy: Whether the discount depends on the accuracy lost rather
            than the norm of the removed weights.
        rewinds: Whether a pruning resets the remaining weights to their values
            in the original training, `retrain_epochs` before its end.
    """

    schedule: Callable
    discount: Callable = discount_factor
    formula: str = ""
    needs_length: bool = False
    by_accuracy: bool = False
    rewinds: bool = False

    def make_schedule(self, **told) -> LearningRateSchedule:
        """Create the schedule of one cycle.

        Args:
            **told: `original`, `peak`, `steps` and `discount`.

        Returns:
            A `LearningRateSchedule`.

        Raises:
            TypeError: If `schedule` returns anything else.
            ValueError: If the schedule is not as long as the cycle.
        """
        if isinstance(self.schedule, LearningRateSchedule):
            schedule = self.schedule
        else:
            names = _parameters(self.schedule)
            schedule = self.schedule(
                **{k: v for k, v in told.items() if k in names}
            )
        if not isinstance(schedule, LearningRateSchedule):
            raise TypeError(
                "`retraining` must return a LearningRateSchedule. "
                f"Received: {schedule!r}"
            )
        if isinstance(schedule, Schedule) and schedule.steps != told["steps"]:
            raise ValueError(
                "`retraining` must return a schedule as long as its cycle, "
                f"{told['steps']} iterations. Received: {schedule!r} with "
                f"{schedule.steps} iterations"
            )
        return schedule


RETRAINING = {
    "ft": Retraining(FT),
    "lrw": Retraining(LRW),
    "slr": Retraining(SLR),
    "clr": Retraining(CLR),
    "llr": Retraining(LLR),
    "allr": Retraining(ALLR, formula=_BOTH),
    "accallr": Retraining(
        ALLR,
        formula="max(accuracy lost, d2)",
        needs_length=True,
        by_accuracy=True,
    ),
    "allr_d1": Retraining(ALLR, _by_change, formula="min(1, d1)"),
    "allr_d2": Retraining(ALLR, _by_length, formula="d2", needs_length=True),
    "constant": Retraining(Constant),
    "stepped": Retraining(Stepped),
    "cosine": Retraining(Cosine),
    "linear": Retraining(Linear),
    "wr": Retraining(LRW, rewinds=True),
}


def as_retraining(retraining) -> Retraining:
    """Look up a retraining method by name, or make one from a callable.

    Args:
        retraining: See `Plan.bimp`.

    Returns:
        A `Retraining`.

    Raises:
        ValueError: If the name is unknown, or the callable has a required
            parameter that it is not passed.
    """
    if isinstance(retraining, Retraining):
        return retraining
    if callable(retraining):
        if isinstance(retraining, LearningRateSchedule):
            return Retraining(retraining)
        adapts = "discount" in _parameters(retraining)
        return Retraining(retraining, formula=_BOTH if adapts else "")
    check_choice("retraining", retraining, RETRAINING)
    return RETRAINING[retraining]


def _parameters(function):
    """Return which of the four arguments to pass to a callable."""
    # Skip the arguments that a partial already binds.
    given = ()
    if isinstance(function, functools.partial):
        given = function.keywords
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # Some builtins have no signature.
        return [name for name in _TOLD if name not in given]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return [name for name in _TOLD if name not in given]
    unknown = [
        p.name
        for p in parameters
        if (p.default is p.empty and p.kind is not p.VAR_POSITIONAL)
        and (p.name not in _TOLD or p.kind is p.POSITIONAL_ONLY)
    ]
    if unknown:
        raise ValueError(
            "`retraining` must be a callable whose parameters are among "
            f"{', '.join(_TOLD)}, or have defaults. Received: {function!r}, "
            f"which needs {', '.join(unknown)}"
        )
    return [p.name for p in parameters if p.name not in given]
