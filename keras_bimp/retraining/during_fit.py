"""The callbacks that carry a plan out during `model.fit`."""

import dataclasses
import warnings
from collections.abc import Callable

import keras

from keras_bimp import selection
from keras_bimp.checks import check_integer
from keras_bimp.checks import check_positive
from keras_bimp.checks import check_sparsity
from keras_bimp.masking import find_prunable
from keras_bimp.masking import masked_layers
from keras_bimp.plan import Plan
from keras_bimp.plan import as_retraining
from keras_bimp.retraining import optimizers
from keras_bimp.retraining.pruning import prune_to
from keras_bimp.retraining.pruning import read
from keras_bimp.retraining.pruning import targets
from keras_bimp.schedules import Joined
from keras_bimp.schedules import discount_factor
from keras_bimp.slots import check_keeps_zeros


def callbacks(
    target_sparsity: float | Plan,
    *,
    dense_epochs: int | None = None,
    cycles: int = 1,
    retraining: str | Callable = "allr",
    allocation: str | Callable = "global",
    criterion: str | Callable = "magnitude",
    granularity: str = "weight",
    original=None,
    original_epochs: float | None = None,
    dense_schedule=None,
    steps_per_epoch: int | None = None,
    on_collapse: str = "protect",
    verbose: int = 1,
) -> list[keras.callbacks.Callback]:
    """The callbacks that prune and retrain a wrapped model during `fit`.

    `fit(epochs=E)` is the whole budget: `dense_epochs` of dense training with
    a learning rate that falls linearly to 0, then `cycles` times a global
    magnitude pruning and a retraining. The largest rate is the one that the
    model is compiled with; after the run the optimizer has it back. The
    callbacks add `sparsity`, `learning_rate`, `cycle`, `norm_drop` and
    `discount` to the logs: list them before callbacks that write logs.

    A `fit` that ends with an exception leaves the schedule of the run in the
    optimizer; the next `fit` with these callbacks puts things right.

    Args:
        target_sparsity: Float in [0, 1), of all prunable weights, reached
            exactly. Or a `Plan`, which says all that the arguments from
            `dense_epochs` to `dense_schedule` say, but for the selection.
        dense_epochs: Integer >= 0 and less than `fit`'s epochs. Required: 0
            says that the model is pretrained.
        cycles: Integer >= 1, how often to prune and retrain.
        retraining: The schedule of each retraining: `"allr"` (adaptive
            linear), `"llr"` (linear), `"ft"` (constant, the last rate),
            `"linear"`, `"stepped"`, or a callable; see `Plan.bimp`.
        allocation: See `keras_bimp.select`.
        criterion: See `keras_bimp.select`.
        granularity: See `keras_bimp.select`.
        original: Learning rates of the original training of a pretrained
            model: an array with one rate per iteration, or a pair `(schedule,
            steps)`. `"ft"` and `"stepped"` need it then.
        original_epochs: Length of the original training of a pretrained model,
            for ALLR. Unknown by default; ALLR then uses `min(1, d1)`.
        dense_schedule: `LearningRateSchedule` of the dense phase. Defaults to
            a line from the peak rate to 0.
        steps_per_epoch: Integer >= 1. Needed only where the data has no known
            length.
        on_collapse: What to do when a pruning would leave a kernel fewer
            weights than it has output units: `"protect"`, `"raise"` or
            `"ignore"`; see `keras_bimp.select`.
        verbose: 0 is silent; 1 prints the plan and a line at each pruning.

    Returns:
        A list of Keras callbacks.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value that cannot be. What depends on
            the model and the data is checked when `fit` begins, before
            anything has changed.

    Example:

    ```python
    model = keras_bimp.wrap(build_model())
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        train,
        epochs=200,
        callbacks=keras_bimp.callbacks(0.95, dense_epochs=100, cycles=3),
    )
    pruned = keras_bimp.strip(model)
    ```

    Reference:

    - Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love
      Retraining", ICLR 2023, Section 3.3 (BIMP).
    """
    selection.check_rules(allocation, criterion, granularity, on_collapse)
    if steps_per_epoch is not None:
        check_integer("steps_per_epoch", steps_per_epoch, minimum=1)
    if isinstance(target_sparsity, Plan):
        given = {
            "dense_epochs": dense_epochs,
            "original": original,
            "original_epochs": original_epochs,
            "dense_schedule": dense_schedule,
        }
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"`{name}` must not be given together with a `Plan`, "
                    f"which says it. Received: {name}={value!r}"
                )
        planner = _GivenPlan(target_sparsity)
    else:
        if dense_epochs is None:
            raise ValueError(
                "`dense_epochs` must be given: how many of `fit`'s epochs to "
                "train before the first pruning, or 0 for a pretrained model. "
                "Received: dense_epochs=None"
            )
        if original_epochs is not None:
            check_positive("original_epochs", original_epochs)
        planner = _BimpPlan(
            target_sparsity=check_sparsity("target_sparsity", target_sparsity),
            dense_epochs=check_integer("dense_epochs", dense_epochs, 0),
            cycles=check_integer("cycles", cycles, 1),
            retraining=as_retraining(retraining),
            original=original,
            original_epochs=original_epochs,
            dense_schedule=dense_schedule,
        )
    return [
        PruneAndRetrain(
            planner,
            steps_per_epoch=steps_per_epoch,
            verbose=verbose,
            allocation=allocation,
            criterion=criterion,
            granularity=granularity,
            on_collapse=on_collapse,
        )
    ]


class _BimpPlan:
    """Makes the plan once `fit` tells its epochs, steps and optimizer."""

    def __init__(self, **arguments):
        self.arguments = arguments

    def __call__(self, epochs, steps_per_epoch, optimizer):
        peak, source = optimizers.peak_rate(optimizer, epochs * steps_per_epoch)
        plan = Plan.bimp(
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            peak=peak,
            **self.arguments,
        )
        return dataclasses.replace(plan, peak_source=source)


class _GivenPlan:
    """Uses a plan that the user made, if `fit` runs as it says."""

    def __init__(self, plan):
        self.plan = plan

    def __call__(self, epochs, steps_per_epoch, optimizer):
        asked = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
        for name, value in asked.items():
            if getattr(self.plan, name) != value:
                raise ValueError(
                    f"`fit` must run the plan's {name}. "
                    f"Received: {name}={value} in `fit`, "
                    f"{getattr(self.plan, name)} in the plan"
                )
        return self.plan


class PruneAndRetrain(keras.callbacks.Callback):
    """Carries out a plan: installs the schedule, prunes, starts the phases.

    Made by `keras_bimp.callbacks`.

    Attributes:
        plan: The `Plan`, from the beginning of `fit` on.
        prunings: The `Pruning` of each cycle so far.
    """

    def __init__(self, planner, *, steps_per_epoch, verbose, **how):
        super().__init__()
        self._planner = planner
        self._steps_per_epoch = steps_per_epoch
        self._verbose = verbose
        self._how = how
        self.plan = None
        self.prunings = []

    def on_train_begin(self, logs=None):
        self.prunings = []
        self._logs = {"norm_drop": 0.0, "discount": 1.0}
        self._phase = None
        self._targets = targets(self.model)
        self.plan = self._make_plan()
        self._counts = self.plan.counts(self._size())
        self._check()
        self._schedule = Joined(
            [phase.schedule for phase in self.plan.phases],
            begins=[None] * len(self.plan.phases),
            discounts=[
                phase.discount if phase.prunes else 1.0
                for phase in self.plan.phases
            ],
        )
        for discount in self._schedule.discounts:
            discount.assign(1.0)
        self._print(str(self.plan))
        self._replaced = optimizers.install(
            self.model.optimizer, self._schedule
        )
        # Steps compiled by an earlier `fit` hold the earlier rate.
        self.model.make_train_function(force=True)

    def on_epoch_begin(self, epoch, logs=None):
        model = self.model
        current = self.plan.phase_at(epoch)
        if self._phase is None and epoch > 0:
            self._catch_up(current, epoch)
        self._phase = current
        if self._schedule.begun(current):
            return
        phase = self.plan.phases[current]
        if phase.prunes:
            self._prune(phase, self._counts[current])
        into_phase = (epoch - phase.start_epoch) * self.plan.steps_per_epoch
        count = optimizers.step_count(model.optimizer)
        self._schedule.begin(current, count - into_phase)
        if keras.backend.backend() == "jax":
            # JAX compiles the values of the schedule's variables in.
            model.make_train_function(force=True)

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        cycle = sum(p.prunes for p in self.plan.phases[: self._phase + 1])
        logs["cycle"] = cycle
        logs["sparsity"] = self._pruned() / self._size()
        step = optimizers.step_count(self.model.optimizer)
        logs["learning_rate"] = float(self._schedule(max(step - 1, 0)))
        logs.update(self._logs)

    def on_train_end(self, logs=None):
        optimizers.uninstall(self.model.optimizer)
        self.model.make_train_function(force=True)

    def _make_plan(self):
        if not self.model.compiled or self.model.optimizer is None:
            raise ValueError(
                "`model` must be compiled with an optimizer. "
                f"Received: model={self.model!r}"
            )
        known = self.params.get("steps")
        steps = self._steps_per_epoch or known
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
        plan = self._planner(self.params["epochs"], steps, self.model.optimizer)
        inside = {target.path for target in self._targets}
        return dataclasses.replace(
            plan,
            prunable=tuple((t.path, t.kernel.size) for t in self._targets),
            skipped=_skipped(self.model, inside),
        )

    def _size(self):
        return sum(target.kernel.size for target in self._targets)

    def _pruned(self):
        left = sum(
            int(keras.ops.count_nonzero(target.mask.value))
            for target in self._targets
        )
        return self._size() - left

    def _check(self):
        """Tries all that a pruning could stumble over hours later."""
        if any(target.rule.hard for target in self._targets):
            check_keeps_zeros(
                self.model.optimizer,
                {len(t.kernel.variable.shape) for t in self._targets},
            )
        kernels, masks = read(self._targets)
        # What a later pruning would raise for depends on the training.
        first, last = dict(self._how), dict(self._how)
        if last["on_collapse"] == "raise":
            last["on_collapse"] = "ignore"
        for count, how in ((self._counts[0], first), (self._counts[-1], last)):
            selection.select_count(
                kernels,
                count,
                masks=masks,
                output_units=[t.kernel.output_units for t in self._targets],
                **how,
            )

    def _catch_up(self, current, epoch):
        """Takes up a run in its midst, where `fit` has an `initial_epoch`."""
        before = self._replaced
        if _same_phases(before, self._schedule) and before.begun(current):
            # A model saved in mid-run: its schedule knows where it stood.
            self._schedule.copy_state(before)
            self._logs["discount"] = float(before.discounts[current])
            return
        missed = sum(phase.prunes for phase in self.plan.phases[:current])
        if missed:
            warnings.warn(
                f"`fit` begins at epoch {epoch}, in "
                f"{self.plan.phases[current].name} of the plan: the prunings "
                f"of {missed} earlier cycles are made up for now, at once.",
                stacklevel=2,
            )

    def _prune(self, phase, count):
        pruning = prune_to(
            self._targets, count, self.model.optimizer, **self._how
        )
        self.prunings.append(pruning)
        _, _, discount = discount_factor(
            pruning.norm_drop,
            pruning.pruned_fraction,
            phase.epochs,
            self.plan.original_epochs,
        )
        phase.discount.assign(discount)
        self._logs = {"norm_drop": pruning.norm_drop, "discount": discount}
        self._report(phase, pruning, discount)

    def _report(self, phase, pruning, discount):
        left = sum(pruning.counts.values())
        self._print(
            f"{phase.name}: pruned to {1 - left / self._size():.2%}, "
            f"{left:,} of {self._size():,} weights left, "
            f"norm drop {pruning.norm_drop:.3f}, discount {discount:.3f}"
        )
        if pruning.protected:
            names = ", ".join(
                f"{path} ({pruning.counts[path]} left)"
                for path in pruning.protected
            )
            self._print(f"{phase.name}: protected from collapse: {names}")

    def _print(self, text):
        if self._verbose:
            print(text)


def _skipped(model, inside):
    """Pairs (path, reason) of all kernels that are not pruned."""
    reasons = {}
    for kernel in find_prunable(model, lambda layer: True).kernels:
        reasons[kernel.path] = "not masked"
    reasons.update(find_prunable(model).skipped)
    for masked in masked_layers(model):
        reasons.update(masked.skipped)
    return tuple((p, why) for p, why in reasons.items() if p not in inside)


def _same_phases(one, other):
    if not isinstance(one, Joined):
        return False
    one, other = (
        [
            (type(s), getattr(s, "steps", None), getattr(s, "peak", None))
            for s in joined.schedules
        ]
        for joined in (one, other)
    )
    return one == other
