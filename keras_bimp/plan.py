"""The plan: a budget of epochs laid out as phases, before training starts."""

import dataclasses
import io
import warnings
from collections.abc import Callable

import keras
import numpy as np
import rich.box
import rich.console
import rich.table

from keras_bimp import sparsity as sparsity_schedules
from keras_bimp.checks import check_choice
from keras_bimp.checks import check_integer
from keras_bimp.checks import check_positive
from keras_bimp.checks import check_sparsity
from keras_bimp.schedules import ALLR
from keras_bimp.schedules import FT
from keras_bimp.schedules import LLR
from keras_bimp.schedules import Linear
from keras_bimp.schedules import Stepped
from keras_bimp.schedules import discount_variable
from keras_bimp.schedules import original_rates
from keras_bimp.schedules import schedule_values

_LearningRateSchedule = keras.optimizers.schedules.LearningRateSchedule


def _fine_tuning(*, original, peak, steps, discount):
    schedule = FT(original, steps)
    if schedule.peak < 0.01 * max(original):
        warnings.warn(
            f"Fine-tuning at {schedule.peak:.2g}, the last rate of the "
            f"original training, which is less than 1 % of its largest "
            f"({max(original):g}): the weights will hardly move. Pass the "
            "rates of an `original` training that does not decay to 0, or "
            "use `retraining='allr'`.",
            stacklevel=2,
        )
    return schedule


# Each builds the schedule of one retraining cycle.
RETRAINING = {
    "ft": _fine_tuning,
    "llr": lambda *, original, peak, steps, discount: LLR(peak, steps),
    "allr": lambda *, original, peak, steps, discount: ALLR(
        peak, steps, discount
    ),
    "linear": lambda *, original, peak, steps, discount: Linear(peak, steps),
    "stepped": lambda *, original, peak, steps, discount: Stepped(
        original, peak, steps
    ),
}


@dataclasses.dataclass(frozen=True)
class Phase:
    """Epochs of one sparsity and one learning-rate schedule.

    Args:
        name: What the phase is called: "dense" or "cycle 1", "cycle 2", ...
        start_epoch: Integer >= 0, its first epoch.
        epochs: Integer >= 1, its length.
        sparsity: Float in [0, 1), from its start to its end.
        schedule: Its learning-rate schedule, counted from 0 at its start.
        discount: Scalar variable that a pruning sets at its start and that an
            adaptive `schedule` reads; `None` where there is no pruning.
    """

    name: str
    start_epoch: int
    epochs: int
    sparsity: float
    schedule: keras.optimizers.schedules.LearningRateSchedule
    discount: keras.Variable | None = None

    @property
    def prunes(self) -> bool:
        """Whether the phase begins with a pruning."""
        return self.discount is not None

    @property
    def end_epoch(self) -> int:
        """The first epoch after the phase."""
        return self.start_epoch + self.epochs


@dataclasses.dataclass(frozen=True)
class Plan:
    """A budget laid out as phases: data made before training starts.

    `Plan.bimp` makes one; `callbacks` carries it out; `str(plan)` is a table.

    Args:
        phases: The phases, in order and without a gap.
        steps_per_epoch: Integer >= 1.
        peak: Float > 0, the largest learning rate of the original training.
        peak_source: Where `peak` comes from, for the table.
        original_epochs: Length of the original training in epochs, the `T` of
            ALLR's `d2`; `None` if it is not known.
        prunable: Pairs (path, size) of the weights to prune; empty if the plan
            was made without a model.
        skipped: Pairs (path, reason) of kernels that stay as they are.
    """

    phases: tuple[Phase, ...]
    steps_per_epoch: int
    peak: float
    peak_source: str = "given"
    original_epochs: float | None = None
    prunable: tuple[tuple[str, int], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    @classmethod
    def bimp(
        cls,
        target_sparsity: float,
        epochs: int,
        steps_per_epoch: int,
        *,
        dense_epochs: int,
        peak: float,
        cycles: int = 1,
        retraining: str | Callable = "allr",
        original=None,
        original_epochs: float | None = None,
        dense_schedule=None,
    ) -> "Plan":
        """Plans budgeted iterative magnitude pruning.

        `dense_epochs` of dense training with a linear schedule, then `cycles`
        times a pruning and a retraining. The cycles share the rest of the
        budget, the remainder goes to the last one. The sparsity follows
        `keras_bimp.sparsity.geometric`.

        Args:
            target_sparsity: Float in [0, 1), of all prunable weights.
            epochs: Integer >= 1, the total budget.
            steps_per_epoch: Integer >= 1.
            dense_epochs: Integer in [0, `epochs`); 0 for a pretrained model.
            peak: Float > 0, the largest learning rate.
            cycles: Integer >= 1, the number of prunings.
            retraining: How to retrain: `"ft"`, `"llr"`, `"allr"`, `"linear"`,
                `"stepped"`, or a callable `f(*, original, peak, steps,
                discount)` that returns a `LearningRateSchedule`; it is called
                once per cycle. There, `original` is the array of the rates of
                the original training, or `None`, and `discount` a scalar
                `keras.Variable`, 1 until the cycle's pruning sets it: use
                `discount.value` inside `__call__`.
            original: The learning rates of the original training, if it was
                not this plan's dense phase: an array with one rate per
                iteration, or a pair `(schedule, steps)`.
            original_epochs: Length of the original training, if it was not
                this plan's dense phase.
            dense_schedule: `LearningRateSchedule` of the dense phase. Defaults
                to a line from `peak` to 0.

        Returns:
            A `Plan`.

        Raises:
            ValueError: If the budget cannot be laid out.

        Example:

        >>> plan = keras_bimp.Plan.bimp(
        ...     0.95, epochs=60, steps_per_epoch=23, dense_epochs=30,
        ...     peak=0.1, cycles=3,
        ... )
        >>> [(p.name, p.epochs, round(p.sparsity, 3)) for p in plan.phases]
        [('dense', 30, 0.0), ('cycle 1', 10, 0.632), ('cycle 2', 10, 0.864),
         ('cycle 3', 10, 0.95)]

        Reference:

        - Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love
          Retraining", ICLR 2023, Section 3.3 (BIMP).
        """
        target_sparsity = check_sparsity("target_sparsity", target_sparsity)
        epochs = check_integer("epochs", epochs, minimum=1)
        steps_per_epoch = check_integer(
            "steps_per_epoch", steps_per_epoch, minimum=1
        )
        dense_epochs = check_integer("dense_epochs", dense_epochs, minimum=0)
        cycles = check_integer("cycles", cycles, minimum=1)
        peak = check_positive("peak", peak)
        if dense_epochs >= epochs:
            raise ValueError(
                "`dense_epochs` must be less than the total number of epochs, "
                "so that epochs are left to retrain. Received: "
                f"dense_epochs={dense_epochs}, epochs={epochs}"
            )
        if epochs - dense_epochs < cycles:
            raise ValueError(
                "`cycles` must not exceed the number of retraining epochs. "
                f"Received: cycles={cycles}, and epochs={epochs} minus "
                f"dense_epochs={dense_epochs} leaves {epochs - dense_epochs}"
            )
        if dense_schedule is not None and not isinstance(
            dense_schedule, _LearningRateSchedule
        ):
            raise TypeError(
                "`dense_schedule` must be a LearningRateSchedule. "
                f"Received: dense_schedule={dense_schedule!r}"
            )
        if original_epochs is not None:
            check_positive("original_epochs", original_epochs)
        phases = []
        if dense_epochs:
            steps = dense_epochs * steps_per_epoch
            if dense_schedule is None:
                dense_schedule = Linear(peak, steps)
            phases.append(Phase("dense", 0, dense_epochs, 0.0, dense_schedule))
            if original is None:
                original = schedule_values(dense_schedule, steps)
        if original_epochs is None and dense_epochs:
            original_epochs = dense_epochs
        phases += _cycles(
            target_sparsity,
            dense_epochs,
            _shares(epochs - dense_epochs, cycles),
            steps_per_epoch,
            peak,
            None if original is None else original_rates(original),
            as_retraining(retraining),
        )
        return cls(
            phases=tuple(phases),
            steps_per_epoch=steps_per_epoch,
            peak=peak,
            original_epochs=original_epochs,
        )

    @property
    def target_sparsity(self) -> float:
        return self.phases[-1].sparsity

    @property
    def epochs(self) -> int:
        return self.phases[-1].end_epoch

    def phase_at(self, epoch: int) -> int:
        """The index of the phase that `epoch` belongs to."""
        starts = [phase.start_epoch for phase in self.phases]
        return int(np.searchsorted(starts, epoch, side="right")) - 1

    def steps(self, phase: Phase) -> int:
        return phase.epochs * self.steps_per_epoch

    def counts(self, total: int) -> list[int]:
        """Pruned weights of `total` at the end of each phase, exactly."""
        return sparsity_schedules.chained_counts(
            total, [phase.sparsity for phase in self.phases]
        )

    def values(self) -> np.ndarray:
        """The learning rate of every iteration of the run, as float64 array.

        What adapts is taken at its present discount: 1 before its pruning.
        """
        return np.concatenate(
            [
                schedule_values(phase.schedule, self.steps(phase))
                for phase in self.phases
            ]
        )

    def __str__(self):
        console = rich.console.Console(
            file=io.StringIO(), width=79, color_system=None, highlight=False
        )
        for line in self._facts():
            console.print(line, soft_wrap=True)
        console.print(self._table())
        return console.file.getvalue().rstrip("\n")

    def _facts(self):
        if self.prunable:
            total = sum(size for _, size in self.prunable)
            yield f"{len(self.prunable)} prunable kernels, {total:,} weights"
        for path, reason in self.skipped:
            yield f"not pruned: {path} ({reason})"
        yield f"peak learning rate {self.peak:g} ({self.peak_source})"
        if self.original_epochs is None:
            yield "T of d2 unknown (pass original_epochs): d = min(1, d1)"
        else:
            yield f"T of d2: {self.original_epochs:g} epochs"

    def _table(self):
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
        for title in ("phase", "epochs", "steps", "sparsity", "weights left"):
            table.add_column(
                title, justify="left" if title == "phase" else "right"
            )
        table.add_column("learning rate")
        total = sum(size for _, size in self.prunable)
        before = 0.0
        for phase, pruned in zip(self.phases, self.counts(total), strict=True):
            table.add_row(
                phase.name,
                f"{phase.start_epoch + 1}-{phase.end_epoch}",
                f"{self.steps(phase):,}",
                f"{before:.2%} -> {phase.sparsity:.2%}"
                if phase.prunes
                else f"{phase.sparsity:.2%}",
                f"{total - pruned:,}" if total else "?",
                self._rates(phase),
            )
            before = phase.sparsity
        return table

    def _rates(self, phase):
        if isinstance(phase.schedule, ALLR):
            return f"adaptive, <= {phase.schedule.peak:g}"
        values = schedule_values(phase.schedule, self.steps(phase))
        start = values.max() if phase.prunes else values[0]
        return f"{start:g} -> {values[-1]:.2g}"


def as_retraining(retraining) -> Callable:
    """Looks up a retraining method by name; a callable stays as it is."""
    if callable(retraining):
        return retraining
    check_choice("retraining", retraining, RETRAINING)
    return RETRAINING[retraining]


def _shares(epochs, cycles):
    share = epochs // cycles
    return [share] * (cycles - 1) + [epochs - share * (cycles - 1)]


def _cycles(target, start, shares, steps_per_epoch, peak, original, retrain):
    for j, epochs in enumerate(shares, start=1):
        discount = discount_variable()
        schedule = retrain(
            original=original,
            peak=peak,
            steps=epochs * steps_per_epoch,
            discount=discount,
        )
        if not isinstance(schedule, _LearningRateSchedule):
            raise TypeError(
                "`retraining` must return a LearningRateSchedule. "
                f"Received: {schedule!r}"
            )
        yield Phase(
            name=f"cycle {j}",
            start_epoch=start,
            epochs=epochs,
            sparsity=target
            if j == len(shares)
            else sparsity_schedules.geometric(j / len(shares), target),
            schedule=schedule,
            discount=discount,
        )
        start += epochs
