"""The callback that executes a plan during `model.fit`."""

import dataclasses
import warnings

import keras
import numpy as np

from keras_bimp._src.backends import backend
from keras_bimp._src.backends import strategy_scope
from keras_bimp._src.masking import hold_zeros
from keras_bimp._src.masking import kernels_to_hold
from keras_bimp._src.model_record import Progress
from keras_bimp._src.retraining import learning_rates as optimizers
from keras_bimp._src.retraining.accuracy import Accuracy
from keras_bimp._src.retraining.callback_checks import check_plans
from keras_bimp._src.retraining.callback_checks import warn_of_early_stopping
from keras_bimp._src.retraining.own_optimizers import check_own_optimizers
from keras_bimp._src.retraining.pruning import Pruning
from keras_bimp._src.retraining.pruning import prune_to
from keras_bimp._src.retraining.pruning_callback import Leader
from keras_bimp._src.retraining.rewinding import Rewinding
from keras_bimp._src.retraining.steps import steps_of_epoch
from keras_bimp._src.retraining.targets import find_targets
from keras_bimp._src.retraining.trial_prunings import planned_pruned
from keras_bimp._src.retraining.trial_prunings import policy_at
from keras_bimp._src.retraining.validation import Validation
from keras_bimp._src.retraining.validation import around_pruning
from keras_bimp._src.retraining.validation import no_pruning_yet
from keras_bimp._src.schedules import Joined
from keras_bimp._src.schedules import discount_factor
from keras_bimp._src.schedules import discount_variable
from keras_bimp._src.schedules import schedule_values


class PruneAndRetrain(Leader):
    """Executes a plan: installs the schedule, prunes, starts the phases.

    Created by `keras_bimp.callbacks`.

    Args:
        planner: Callable (epochs, steps_per_epoch, optimizer) -> `Plan`.
        steps_per_epoch: Integer, or `None` to take it from `fit`.
        policy: The selection, a `selection.Policy`.
        filters: Which layers to prune, as in `prune`.
        exclude: Which layers not to prune, as in `prune`.
        samples: `Samples` for settings that need data, or `None`.
        rewind_to: File of the weights to rewind to, or directory to keep them
            in, or `None`.
        verbose: 0 or 1.

    Attributes:
        plan: The `Plan`, once `fit` has begun.
        prunings: The `Pruning` of each cycle so far.
    """

    def __init__(
        self,
        planner,
        *,
        steps_per_epoch,
        policy,
        filters,
        exclude,
        samples,
        rewind_to,
        verbose,
    ):
        super().__init__(verbose)
        self._planner = planner
        self._steps_per_epoch = steps_per_epoch
        self._policy = policy
        self._filters = filters
        self._exclude = exclude
        self._samples = samples
        self._accuracy = Accuracy(samples)
        self._rewind_to = rewind_to
        self.plan = None
        self.prunings = []

    def begin(self):
        check_plans(self, self._fit.callbacks)
        self.prunings = []
        self._logs = {"norm_drop": 0.0, "d1": 0.0, "d2": 0.0, "discount": 1.0}
        self._validation = Validation(self._fit.validation)
        self._phase = None
        self._warned = False
        self._found = find_targets(
            self.model, self._policy, self._filters, self._exclude
        )
        self.plan = self._make_plan()
        warn_of_early_stopping(
            [p.start_epoch for p in self.plan.phases if p.prunes],
            self._fit.callbacks,
        )
        self._found.warn_if_staying()
        self._sparsities = self.plan.sparsities(self._found.size)
        self._check()
        self._rewinding = Rewinding(self.plan, self._rewind_to)
        self._rewinding.prepare(self.model)
        self._print(str(self.plan))

    def install(self):
        with strategy_scope(self.model):
            discount = discount_variable()
            self._schedule = Joined(
                self.plan.schedules(discount),
                begins=[None] * len(self.plan.phases),
                discount=discount,
            )
        self._replaced = optimizers.install(
            self.model.optimizer, self._schedule
        )
        return self._schedule.variables if backend() == "jax" else []

    def uninstall(self):
        with strategy_scope(self.model):
            optimizers.uninstall(self.model.optimizer)

    def begin_epoch(self, epoch):
        model = self.model
        current = self.plan.phase_at(epoch)
        if self._phase is None:
            self._begin_at(epoch, current)
        self._rewinding.keep(epoch, model)
        self._phase = current
        if self._schedule.begun(current):
            return
        phase = self.plan.phases[current]
        if phase.prunes:
            self._prune(current)
        into_phase = (epoch - phase.start_epoch) * self.plan.steps_per_epoch
        count = optimizers.step_count(model.optimizer)
        self._schedule.begin(current, count - into_phase)

    def end_epoch(self, epoch, logs):
        self._validation.remember(self.model, logs)
        if not self.prunings:
            # In every epoch from the first, for log files with columns.
            logs.update(no_pruning_yet(self._validation(self.model)))
        cycle = sum(p.prunes for p in self.plan.phases[: self._phase + 1])
        logs["cycle"] = cycle
        step = optimizers.step_count(self.model.optimizer)
        # Not by a call, because JAX would first compile each operation.
        (rate,) = schedule_values(self._schedule, 1, max(step - 1, 0))
        logs["learning_rate"] = float(np.asarray(rate, keras.config.floatx()))
        logs.update(self._logs)

    def facts(self):
        plan = self.plan
        return {
            "target_sparsity": plan.target_sparsity,
            "epochs": plan.epochs,
            "steps_per_epoch": plan.steps_per_epoch,
            "phases": [
                [phase.name, phase.epochs, type(schedule).__name__]
                for phase, schedule in zip(
                    plan.phases, plan.schedules(), strict=True
                )
            ],
            "peak learning rate": plan.peak,
            "original_epochs": plan.original_epochs,
            "pruning": plan.pruning,
            "prunable weights": self._found.size,
        }

    def get_state(self):
        return {
            "phase": self._phase,
            "done": self._done,
            "logs": self._logs,
            "prunings": [dataclasses.asdict(p) for p in self.prunings],
            "schedule": self._schedule.state(),
            "rewinding": self._rewinding.state(),
        }

    def set_state(self, state):
        self._phase = state["phase"]
        self._done = state["done"]
        self._logs = state["logs"]
        self.prunings = [Pruning.of(p) for p in state["prunings"]]
        self._schedule.set_state(state["schedule"])
        self._rewinding.set_state(state["rewinding"])
        hold_zeros(self._held)
        self.note_progress()

    def _make_plan(self):
        if not self.model.compiled or self.model.optimizer is None:
            raise ValueError(
                "`model` must be compiled with an optimizer. "
                f"Received: model={self.model!r}"
            )
        check_own_optimizers(self.model)
        steps = steps_of_epoch(self._steps_per_epoch, self.params)
        plan = self._planner(self.params["epochs"], steps, self.model.optimizer)
        return dataclasses.replace(
            plan,
            prunable=tuple(
                (t.path, t.kernel.size) for t in self._found.targets
            ),
            skipped=self._found.skipped,
            pruning=str(self._found),
            staying=self._found.staying,
        )

    def _check(self):
        """Check everything that could make a later pruning fail."""
        self._held = kernels_to_hold(self._found.hard, self.model.optimizer)
        if self.plan.retraining.by_accuracy:
            self._accuracy.check(self.model)
        gradients = self._found.gradients(self.model, self._samples, limit=1)
        self._pruned, planned = planned_pruned(
            self.plan, self._found, gradients, self._policy.on_collapse
        )
        self.plan = self.plan.with_pruned(planned)

    def _begin_at(self, epoch, current):
        """Start in the middle of a run, if `fit` has an `initial_epoch`."""
        phases = self.plan.phases
        if epoch > 0:
            self._take_over(self._replaced, current)
        for i, phase in enumerate(phases[: current + 1]):
            # The masks may have been restored without the schedule.
            pruned = (
                epoch > phase.start_epoch
                and self._found.pruned >= self._pruned[i]
            )
            if i < current or self._schedule.begun(i) or pruned:
                self._rewinding.forget(phase)
        self._rewinding.check(epoch, self.model)
        missed = sum(
            phase.prunes and self._found.pruned < count
            for phase, count in zip(
                phases[:current], self._pruned[:current], strict=True
            )
        )
        if missed:
            warnings.warn(
                f"`fit` begins at epoch {epoch}, in {phases[current].name} of "
                f"the plan: the prunings of {missed} earlier cycles were "
                "missed and are done now, in one step.",
                stacklevel=2,
            )

    def _take_over(self, before, current):
        """Continue with the schedule of a model saved during a run."""
        if not self._schedule.has_the_phases_of(before):
            return
        last = max(
            (i for i in range(len(before.schedules)) if before.begun(i)),
            default=-1,
        )
        # Saved in this phase, or at the end of the previous one.
        if last in (current, current - 1):
            self._schedule.set_state(before.state())
            self._logs["discount"] = before.state()["discount"]

    def _prune(self, current):
        phase = self.plan.phases[current]
        retraining = self.plan.retraining
        notes = self._schedule.notes
        if retraining.by_accuracy and "dense_accuracy" not in notes:
            if self._found.pruned:
                warnings.warn(
                    "The accuracy of the dense model is not known: the "
                    "accuracy lost is measured against the current model, "
                    f"{self._found.pruned / self._found.size:.2%} sparse.",
                    stacklevel=2,
                )
            notes["dense_accuracy"] = self._accuracy(self.model)
        if not self._warned:
            self._warned = self._found.warn_if_beyond(self._sparsities[current])
        before = self._validation(self.model)
        pruning = prune_to(
            self.model,
            self._found,
            self._sparsities[current],
            self.model.optimizer,
            held=self._held,
            gradients=self._found.gradients(self.model, self._samples),
            policy=policy_at(
                self._found,
                self._sparsities[current],
                self.plan.target_sparsity,
            ),
        )
        self._validation.forget()
        after = self._validation(self.model)
        self._fit.compare_anew()
        change, fraction = pruning.norm_drop, pruning.pruned_fraction
        if retraining.by_accuracy:
            change, fraction = self._accuracy_lost(), 1.0
        _, _, discount = retraining.discount(
            change, fraction, phase.epochs, self.plan.original_epochs
        )
        self._rewinding.rewind(phase, self.model, self._found.targets)
        self._schedule.discount.assign(discount)
        if retraining.formula:
            pruning = dataclasses.replace(pruning, discount=discount)
        self.prunings.append(pruning)
        d1, d2, _ = discount_factor(
            pruning.norm_drop,
            pruning.pruned_fraction,
            phase.epochs,
            self.plan.original_epochs,
        )
        self._logs = {
            "norm_drop": pruning.norm_drop,
            "d1": d1,
            "d2": d2,
            "discount": discount,
            **around_pruning(before, after),
        }
        for line in pruning.lines(phase.name, self._found.size):
            self._print(line)

    def _accuracy_lost(self):
        """Return the share of the dense model's accuracy lost, in [0, 1]."""
        dense = self._schedule.notes["dense_accuracy"]
        accuracy = self._accuracy(self.model)
        return min(max((dense - accuracy) / dense, 0.0), 1.0) if dense else 0.0

    def progress(self):
        return Progress(
            self._done,
            self.plan.epochs,
            self._found.pruned,
            self._found.size,
            self.plan.target_sparsity,
            self._found.skipped,
            self._is_at_target(),
        )

    def _is_at_target(self):
        phases = self.plan.phases
        prunings = [i for i, phase in enumerate(phases) if phase.prunes]
        # The masks may have been restored without the schedule.
        return not prunings or (
            self._schedule.begun(prunings[-1])
            or self._found.pruned >= self._pruned[prunings[-1]]
        )
