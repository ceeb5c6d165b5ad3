"""The callback that prunes gradually, or at the end."""

import numpy as np

from keras_bimp._src import failures
from keras_bimp._src.backends import as_array
from keras_bimp._src.baselines import recipe_checks as checking
from keras_bimp._src.baselines.global_sparse_momentum import (
    GlobalSparseMomentum,
)
from keras_bimp._src.baselines.learned_rules import SigmoidGate
from keras_bimp._src.baselines.magnitude_rules import StraightThrough
from keras_bimp._src.baselines.magnitude_rules import TopWeights
from keras_bimp._src.masking import kernels_to_hold
from keras_bimp._src.metrics.effective_kernels import EffectiveKernels
from keras_bimp._src.model_record import ROUNDING
from keras_bimp._src.model_record import Progress
from keras_bimp._src.retraining.callback_checks import warn_of_early_stopping
from keras_bimp._src.retraining.learning_rates import step_count
from keras_bimp._src.retraining.own_optimizers import check_own_optimizers
from keras_bimp._src.retraining.pruning import apply_masks
from keras_bimp._src.retraining.pruning import prune_to
from keras_bimp._src.retraining.pruning_callback import Leader
from keras_bimp._src.retraining.targets import find_targets
from keras_bimp._src.slots import innermost


class GradualPruning(Leader):
    """Prunes at the start of some epochs, and at the end of the training.

    With `masking.Hard`, weights are pruned for good. With other rules, the
    weights to prune are chosen again among all weights.

    Args:
        rule: The rule that the model is wrapped with.
        policy: The selection, a `selection.Policy`.
        target_sparsity: Float in [0, 1), or `None` if the method determines
            it.
        sparsities: Callable epochs -> dict epoch -> sparsity: the prunings of
            a training of that many epochs.
        by_step: Alternatively a callable step -> (whether to prune, sparsity);
            or `None`.
        at_the_end: Whether to prune to the target at the end of the training.
        check: Callable (model, targets) that raises if they do not suit the
            method, or `None`.
        verbose: 0 or 1.

    Attributes:
        sparsities: Dict epoch -> sparsity of this training's prunings.

    Example:

    >>> (callback,) = keras_bimp.baselines.gmp(0.9, interval=10).callbacks
    >>> isinstance(callback, keras_bimp.baselines.GradualPruning)
    True
    """

    def __init__(
        self,
        rule,
        policy,
        target_sparsity=None,
        *,
        sparsities=None,
        by_step=None,
        at_the_end=False,
        check=None,
        verbose=1,
    ):
        super().__init__(verbose)
        self._rule = rule
        self._policy = policy
        self._target_sparsity = target_sparsity
        self._planned = sparsities
        self._by_step = by_step
        self._at_the_end = at_the_end
        self._check = check
        self.sparsities = {}

    def begin(self):
        self._found = find_targets(self.model, self._policy)
        checking.check_rules(self.model, self._found, self._rule)
        check_own_optimizers(self.model)
        by_step = self._by_step is not None
        checking.check_fit(self, self._rule, by_step)
        if self._check is not None:
            self._check(self.model, self._found)
        self._held = kernels_to_hold(self._found.hard, self.model.optimizer)
        epochs = self.params["epochs"]
        self.sparsities = self._planned(epochs) if self._planned else {}
        warn_of_early_stopping(sorted(self.sparsities), self._fit.callbacks)
        self._asked = 0.0  # The sparsity of the last pruning.
        # The epoch, its first step, and the last step that was checked.
        self._epoch, self._first, self._last = None, 0, -1

    def install(self):
        optimizer = innermost(self.model.optimizer)
        if isinstance(optimizer, GlobalSparseMomentum):
            kernels = [t.kernel.variable for t in self._found.targets]
            if optimizer.choose_among(kernels):
                return []
        return None

    def begin_epoch(self, epoch):
        if epoch == self._epoch:  # Resumed in the middle of the epoch.
            return
        self._epoch, self._first = epoch, step_count(self.model.optimizer)
        if isinstance(self._rule, SigmoidGate):
            steps = self.params["steps"]
            for target in self._found.targets:
                target.rule.step.assign(epoch * steps)
                target.rule.steps.assign(self.params["epochs"] * steps)
        if epoch in self.sparsities:
            self._prune(self.sparsities[epoch], self.model.optimizer)

    def on_train_batch_begin(self, batch, logs=None):
        # Batches before a backup are seen again.
        if self._by_step is None or self._first + batch <= self._last:
            return
        self._last = self._first + batch
        due, share = self._by_step(self._last)
        # Only then, because on JAX reading the model waits for the step.
        if bool(due):
            self._prune(float(share), self.model.optimizer)

    def end_epoch(self, epoch, logs):
        self._choose_anew()
        at_the_end = self._at_the_end and self._done == self.params["epochs"]
        if at_the_end and failures.why_failed(self.model) is None:
            self._prune(self._target_sparsity)

    def facts(self):
        return {
            "target_sparsity": self._target_sparsity,
            "epochs": self.params["epochs"],
            "rule": f"{type(self._rule).__name__} {self._rule.get_config()}",
            "sparsities": [list(pair) for pair in self.sparsities.items()],
            "pruning": str(self._policy),
            "prunable weights": self._found.size,
        }

    def get_state(self):
        return {
            "done": self._done,
            "epoch": self._epoch,
            "first": self._first,
            "last": self._last,
            "asked": self._asked,
        }

    def set_state(self, state):
        self._done, self._epoch = state["done"], state["epoch"]
        self._asked = state.get("asked", 0.0)
        self._first, self._last = state["first"], state["last"]
        apply_masks(self.model, self._found, None, held=self._held)

    def _prune(self, share, optimizer=None):
        """Prune to a sparsity; reset slots if an optimizer is given."""
        found = self._found
        self._asked = share
        if found.hard:
            prune_to(self.model, found, share, optimizer, held=self._held)
        else:
            kernels = self._kernels()
            every = [np.ones(kernel.shape, bool) for kernel in kernels]
            chosen = found.choose(kernels, share, every).masks
            straight = isinstance(self._rule, StraightThrough)
            self._assign(chosen, None if straight else optimizer)
            if straight:
                for target in found.targets:
                    target.rule.pruned.assign(found.pruned)
        self._fit.compare_anew()
        self._print(
            f"pruned to {found.pruned / found.size:.2%}, "
            f"{found.size - found.pruned:,} of {found.size:,} weights left"
        )

    def _choose_anew(self):
        """Set the masks that the next step would choose."""
        magnitudes = [np.abs(kernel) for kernel in self._kernels()]
        flat = np.concatenate([magnitude.ravel() for magnitude in magnitudes])
        rule = self._found.targets[0].rule
        if isinstance(rule, TopWeights):
            pruned = int(rule.target_sparsity * self._found.size)
            threshold = -1.0
            if pruned:
                threshold = np.partition(flat, pruned - 1)[pruned - 1]
            self._assign([magnitude > threshold for magnitude in magnitudes])
        elif isinstance(rule, StraightThrough):
            if int(as_array(rule.step)) % rule.every:
                return
            kept = np.ones(flat.shape, bool)
            pruned = int(as_array(rule.pruned))
            kept[np.argsort(flat, kind="stable")[:pruned]] = False
            ends = np.cumsum([magnitude.size for magnitude in magnitudes])
            self._assign(
                part.reshape(magnitude.shape)
                for part, magnitude in zip(
                    np.split(kept, ends[:-1]), magnitudes, strict=True
                )
            )

    def _kernels(self):
        return [
            as_array(target.kernel.variable, copy=False)
            for target in self._found.targets
        ]

    def _assign(self, masks, optimizer=None):
        apply_masks(
            self.model, self._found, list(masks), optimizer, forget=True
        )

    def progress(self):
        effective = EffectiveKernels(self.model)
        kernels = [target.kernel for target in self._found.targets]
        progress = Progress(
            self._done,
            self.params["epochs"],
            sum(k.size - effective.nonzero(k.variable) for k in kernels),
            self._found.size,
            self._target_sparsity,
            self._found.skipped,
        )
        return progress._replace(reached=self._reached(progress))

    def _reached(self, progress):
        target = self._target_sparsity
        if target is None:
            return True
        # Otherwise a rule chooses in each step.
        return (
            self._asked >= target - ROUNDING
            or progress.pruned + 1 > target * progress.weights
        )
