"""The plan: a budget of epochs divided into phases before training."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from keras_bimp._src import sparsity_schedules
from keras_bimp._src.checks import check_integer
from keras_bimp._src.checks import check_positive
from keras_bimp._src.checks import check_sparsity
from keras_bimp._src.plan.automatic import as_budget
from keras_bimp._src.plan.automatic import check_automatic
from keras_bimp._src.plan.automatic import is_auto
from keras_bimp._src.plan.cycles import equal_shares
from keras_bimp._src.plan.cycles import geometric_sparsities
from keras_bimp._src.plan.cycles import renda_shares
from keras_bimp._src.plan.cycles import renda_sparsities
from keras_bimp._src.plan.phase import Phase
from keras_bimp._src.plan.plan_table import as_table
from keras_bimp._src.plan.retraining_methods import RETRAINING
from keras_bimp._src.plan.retraining_methods import Retraining
from keras_bimp._src.schedules import Linear
from keras_bimp._src.schedules import discount_variable
from keras_bimp._src.schedules import original_rates
from keras_bimp._src.schedules import schedule_values


@dataclasses.dataclass(frozen=True)
class Plan:
    """A budget of epochs divided into phases before training starts.

    `Plan.bimp` creates it, `callbacks` executes it, and `str(plan)` is a
    table.

    Args:
        phases: The phases, in order and without gaps.
        steps_per_epoch: Integer >= 1.
        peak: Float > 0, the largest learning rate of the original training.
        dense_schedule: `LearningRateSchedule` of the dense phase.
        original: Array of the rates of the original training, on which the
            schedules of cycles are based; `None` if unknown.
        peak_source: Where `peak` comes from, for the table.
        original_epochs: Length of the original training in epochs, the `T` of
            ALLR's `d2`; `None` if unknown.
        retraining: The `Retraining` of its cycles.
        prunable: Pairs (path, size) of the weights to prune; empty if the plan
            was made without a model.
        skipped: Pairs (path, reason) of kernels that are not pruned.
        pruning: The selection, in words.
        staying: Pairs (path, reason) of kernels that get zeros but that
            `shrink` cannot make smaller.
        chosen: The automatically chosen arguments of `callbacks`, as text.

    Example:

    >>> plan = keras_bimp.Plan.bimp(
    ...     0.75, 20, steps_per_epoch=100, dense_epochs=10, peak=0.1, cycles=2
    ... )
    >>> [(phase.name, phase.epochs, phase.sparsity) for phase in plan.phases]
    [('dense', 10, 0.0), ('cycle 1', 5, 0.5), ('cycle 2', 5, 0.75)]
    """

    phases: tuple[Phase, ...]
    steps_per_epoch: int
    peak: float
    dense_schedule: LearningRateSchedule | None = None
    original: np.ndarray | None = dataclasses.field(
        default=None, repr=False, compare=False
    )
    peak_source: str = "given"
    original_epochs: float | None = None
    retraining: Retraining = RETRAINING["allr"]
    prunable: tuple[tuple[str, int], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    pruning: str = ""
    staying: tuple[tuple[str, str], ...] = ()
    chosen: tuple[str, ...] = ()

    @classmethod
    def bimp(
        cls,
        target_sparsity: float,
        epochs: int,
        steps_per_epoch: int,
        *,
        dense_epochs: int | None = None,
        peak: float,
        cycles: int | str = "auto",
        retraining: str | Callable = "auto",
        original=None,
        original_epochs: float | None = None,
        dense_schedule=None,
    ) -> "Plan":
        """Plan budgeted iterative magnitude pruning.

        The plan has `dense_epochs` of dense training with a linear schedule,
        then `cycles`, each a pruning and a retraining. The cycles share the
        rest of the budget; the last one gets the remainder. The sparsity
        follows `keras_bimp.sparsity_schedules.geometric`.

        With `cycles="renda"`, each cycle prunes 20% of the remaining weights
        and retrains for as long as the original training, until the target is
        reached.

        Args:
            target_sparsity: Float in [0, 1), of all prunable weights.
            epochs: Integer >= 1, the total budget.
            steps_per_epoch: Integer >= 1.
            dense_epochs: Integer in [0, `epochs`); 0 for a pretrained model.
                Defaults to a quarter of `epochs`.
            peak: Float > 0, the largest learning rate.
            cycles: Integer >= 1, the number of prunings; or `"renda"`, for
                which `epochs` must fit exactly (the error says how many); or
                `"auto"`: at most 5, such that each prunes at least a third of
                the remaining weights and has at least 100 iterations.
            retraining: How to retrain. One of

                - `"auto"`: `"llr"` if the dense phase takes less than half of
                  the epochs, `"allr"` if it takes more or the model is
                  pretrained
                - `"ft"`: fine-tuning, constant at the last original rate
                - `"lrw"`: learning-rate rewinding, repeats the last rates
                - `"slr"`: the original rates, compressed
                - `"clr"`: a cosine from the largest to the last rate
                - `"llr"`: linear from the largest rate to 0
                - `"allr"`: like `"llr"`, from a rate adapted to the pruning
                - `"accallr"`: like `"allr"`, adapted to the accuracy lost
                - `"allr_d1"`, `"allr_d2"`: adapted only to the change of the
                  weights, or only to the length of the cycle
                - `"constant"`, `"stepped"`, `"cosine"`, `"linear"`: without a
                  warm-up
                - `"wr"`: weight rewinding, `"lrw"` from the weights at that
                  time

                or a `LearningRateSchedule`, or a callable that returns one and
                is called for each cycle: a class such as `schedules.SLR`, or a
                function `f(*, original, peak, steps, discount)`, which can
                omit parameters it does not need. `original` is the array of
                rates of the original training, or `None`. `discount` is a
                scalar `keras.Variable`, 1 until the cycle's pruning sets it:
                use `discount.value` inside `__call__`.
            original: The learning rates of the original training, if that is
                not this plan's dense phase: an array with one rate per
                iteration, a `RecordLearningRate`, or a pair `(schedule,
                steps)`.
            original_epochs: Length of the original training, if that is not
                this plan's dense phase. With `retraining="auto"` it defaults
                to the length of `original` in epochs of `steps_per_epoch`.
            dense_schedule: `LearningRateSchedule` of the dense phase. Defaults
                to linear from `peak` to 0.

        Returns:
            A `Plan`.

        Raises:
            ValueError: If the budget cannot be divided as asked.

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
        - Renda, Frankle, Carbin, "Comparing Rewinding and Fine-tuning in
          Neural Network Pruning", ICLR 2020 (`cycles="renda"`).
        """
        target_sparsity = check_sparsity("target_sparsity", target_sparsity)
        epochs = check_integer("epochs", epochs, minimum=1)
        steps_per_epoch = check_integer(
            "steps_per_epoch", steps_per_epoch, minimum=1
        )
        if dense_epochs is not None:
            dense_epochs = check_integer("dense_epochs", dense_epochs, 0)
        check_automatic(cycles, retraining)
        peak = check_positive("peak", peak)
        if dense_epochs is not None and dense_epochs >= epochs:
            raise ValueError(
                "`dense_epochs` must be less than the total number of epochs, "
                "to leave epochs for retraining. Received: "
                f"dense_epochs={dense_epochs}, epochs={epochs}"
            )
        if dense_schedule is not None and not isinstance(
            dense_schedule, LearningRateSchedule
        ):
            raise TypeError(
                "`dense_schedule` must be a LearningRateSchedule. "
                f"Received: dense_schedule={dense_schedule!r}"
            )
        if original_epochs is not None:
            check_positive("original_epochs", original_epochs)
        automatic = as_budget(
            target_sparsity,
            epochs,
            steps_per_epoch,
            dense_epochs,
            cycles,
            retraining,
        )
        if (
            dense_epochs == 0
            and is_auto(retraining)
            and original is not None
            and original_epochs is None
        ):
            original_epochs = len(original_rates(original)) / steps_per_epoch
        dense_epochs, cycles = automatic.dense_epochs, automatic.cycles
        retraining = automatic.retraining
        phases = []
        if dense_epochs:
            steps = dense_epochs * steps_per_epoch
            if dense_schedule is None:
                dense_schedule = Linear(peak, steps)
            phases.append(Phase("dense", 0, dense_epochs, 0.0, prunes=False))
            if original is None:
                original = schedule_values(dense_schedule, steps)
        if original_epochs is None and dense_epochs:
            original_epochs = dense_epochs
        if original_epochs is None and retraining.needs_length:
            raise ValueError(
                "`original_epochs` must be given: the length of the original "
                "training in epochs, from which this retraining computes "
                f"{retraining.formula}. Received: original_epochs=None"
            )
        budget = epochs - dense_epochs
        if cycles == "renda":
            sparsities = renda_sparsities(target_sparsity)
            shares = renda_shares(len(sparsities), budget, original_epochs)
        else:
            sparsities = geometric_sparsities(target_sparsity, cycles)
            shares = equal_shares(budget, cycles)
        if retraining.rewinds and dense_epochs and max(shares) > dense_epochs:
            raise ValueError(
                "A cycle must not be longer than the dense training whose "
                "weights it rewinds to. Received: a cycle of "
                f"{max(shares)} epochs, dense_epochs={dense_epochs}"
            )
        start = dense_epochs
        planned = zip(shares, sparsities, strict=True)
        for j, (share, sparsity) in enumerate(planned, start=1):
            phases.append(
                Phase(f"cycle {j}", start, share, sparsity, prunes=True)
            )
            start += share
        plan = cls(
            phases=tuple(phases),
            steps_per_epoch=steps_per_epoch,
            peak=peak,
            dense_schedule=dense_schedule,
            original=None if original is None else original_rates(original),
            original_epochs=original_epochs,
            retraining=retraining,
            chosen=automatic.chosen,
        )
        plan.schedules()  # Raises the errors of the schedules early.
        return plan

    @property
    def target_sparsity(self) -> float:
        return self.phases[-1].sparsity

    @property
    def epochs(self) -> int:
        return self.phases[-1].end_epoch

    def phase_at(self, epoch: int) -> int:
        """Return the index of the phase that `epoch` belongs to."""
        starts = [phase.start_epoch for phase in self.phases]
        return int(np.searchsorted(starts, epoch, side="right")) - 1

    def steps(self, phase: Phase) -> int:
        return phase.epochs * self.steps_per_epoch

    def rewind_epoch(self, phase: Phase) -> int | None:
        """Return the dense epoch whose weights a cycle rewinds to.

        Args:
            phase: One of `phases`.

        Returns:
            Number of epochs since the beginning; `None` if the cycle does not
            rewind, or the plan has no dense phase.
        """
        dense = self.phases[0]
        if not self.retraining.rewinds or not phase.prunes or dense.prunes:
            return None
        return dense.epochs - phase.epochs

    def pruned(self, total: int) -> list[int]:
        """Return how many of `total` weights each phase has pruned."""
        known = [p.pruned for p in self.phases if p.pruned is not None]
        if len(known) == len(self.phases):
            return known
        return sparsity_schedules.pruned_weights(
            total, [phase.sparsity for phase in self.phases]
        )

    def with_pruned(self, pruned: list[int]) -> "Plan":
        """Return the plan with the exact number of pruned weights per phase."""
        phases = zip(self.phases, pruned, strict=True)
        return dataclasses.replace(
            self,
            phases=tuple(
                dataclasses.replace(phase, pruned=count)
                for phase, count in phases
            ),
        )

    def sparsities(self, total: int) -> list[float]:
        """Return phase sparsities for which `round(sparsity * total)` is exact.

        Intermediate sparsities are computed from weight counts: each pruning
        removes a rounded share of the remaining weights.
        """
        asked = [phase.sparsity for phase in self.phases]
        pruned = sparsity_schedules.pruned_weights(total, asked)
        return [*(count / total for count in pruned[:-1]), asked[-1]]

    def schedules(self, discount=None) -> list[LearningRateSchedule]:
        """Create the learning-rate schedule of each phase.

        Args:
            discount: Scalar `keras.Variable` that adaptive schedules read.
                Defaults to a new one with value 1.

        Returns:
            The schedules. Each counts from 0 at the start of its phase.

        Raises:
            TypeError, ValueError: If `retraining` cannot create them.
        """
        discount = discount_variable() if discount is None else discount
        make = functools.partial(
            self.retraining.make_schedule,
            original=self.original,
            peak=self.peak,
            discount=discount,
        )
        if self.retraining in RETRAINING.values():
            # Cycles of one length share a schedule: a step has less to compute.
            make = functools.cache(make)
        return [
            make(steps=self.steps(phase))
            if phase.prunes
            else self.dense_schedule
            for phase in self.phases
        ]

    def values(self, discounts=()) -> np.ndarray:
        """Return the learning rate of every iteration, as float64 array.

        Args:
            discounts: Float in [0, 1] of each pruning so far, as in
                `Pruning.discount`, or `None` for non-adaptive schedules.
                Missing discounts are 1.
        """
        known, discount, rates = iter(discounts), discount_variable(), []
        schedules = self.schedules(discount)
        for phase, schedule in zip(self.phases, schedules, strict=True):
            told = next(known, None) if phase.prunes else None
            discount.assign(1.0 if told is None else told)
            rates.append(schedule_values(schedule, self.steps(phase)))
        return np.concatenate(rates)

    def __str__(self):
        return as_table(self)
