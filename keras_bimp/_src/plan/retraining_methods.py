"""The ways to retrain after a pruning, by name."""

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
    """How every cycle retrains.

    Args:
        schedule: Callable that returns the `LearningRateSchedule` of a cycle.
            It gets those of the keyword arguments `original`, `peak`, `steps`
            and `discount` that it has parameters for; see `Plan.bimp`.
        discount: Callable with the arguments of `discount_factor` that returns
            the tuple `(d1, d2, d)`.
        formula: What `discount` computes, for the plan; empty if `schedule`
            does not look at it.
        needs_length: Whether that needs the length of the original training.
        by_accuracy: Whether a pruning is judged by the accuracy it costs
            rather than by the norm of what it removes.
        rewinds: Whether a pruning sets the weights that are left back to what
            they were in the original training, `retrain_epochs` before its
            end.
    """

    schedule: Callable
    discount: Callable = discount_factor
    formula: str = ""
    needs_length: bool = False
    by_accuracy: bool = False
    rewinds: bool = False

    def make_schedule(self, **told) -> LearningRateSchedule:
        """The schedule of one cycle.

        Args:
            **told: `original`, `peak`, `steps` and `discount`.

        Returns:
            A `LearningRateSchedule`.

        Raises:
            TypeError: If `schedule` makes something else.
            ValueError: If it is of another length than the cycle.
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
                "`retraining` must give a schedule as long as its cycle, "
                f"{told['steps']} iterations. Received: one of "
                f"{schedule.steps}, {schedule!r}"
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
    """Looks up a way to retrain by its name; makes one of a callable.

    Args:
        retraining: See `Plan.bimp`.

    Returns:
        A `Retraining`.

    Raises:
        ValueError: If the name is unknown, or the callable has a parameter
            that it will not be given.
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
    """Those of the four arguments that a callable has parameters for."""
    # What a partial was given already is not given again.
    given = ()
    if isinstance(function, functools.partial):
        given = function.keywords
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # Some builtins do not tell.
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
