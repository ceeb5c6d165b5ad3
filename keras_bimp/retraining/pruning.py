"""One pruning of a masked model."""

import dataclasses
import warnings
from collections.abc import Callable
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from keras_bimp import selection
from keras_bimp.masking import Kernel
from keras_bimp.masking import Masked
from keras_bimp.masking import MaskedModel
from keras_bimp.masking import Rule
from keras_bimp.masking import find_prunable
from keras_bimp.masking import masked_layers
from keras_bimp.masking import unique_paths
from keras_bimp.retraining.loss_gradients import gradients
from keras_bimp.retraining.samples import Samples
from keras_bimp.retraining.samples import check_fraction
from keras_bimp.slots import check_keeps_zeros
from keras_bimp.slots import slots
from keras_bimp.slots import zero_pruned


@dataclasses.dataclass(frozen=True)
class Pruning:
    """What one pruning did.

    Args:
        counts: Path of each kernel -> number of its weights that are left.
        norm_drop: Norm of what was removed over the norm of all prunable
            weights just before.
        pruned_fraction: Share of the weights remaining before that was
            removed.
        protected: Paths of the kernels that would have collapsed.
        skipped: Pairs (path, reason) of kernels that stay as they are.
    """

    counts: dict[str, int]
    norm_drop: float
    pruned_fraction: float
    protected: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Target:
    """A kernel that pruning acts on, with its mask and its rule.

    `path` is the kernel's, made unique where several have the same.
    """

    kernel: Kernel
    mask: keras.Variable
    rule: Rule
    path: str


@dataclasses.dataclass(frozen=True)
class Targets:
    """What pruning acts on, and how it chooses.

    Args:
        targets: By first appearance in `trainable_variables`.
        skipped: Pairs (path, reason) of the model's other kernels.
        policy: Which weights stay.
    """

    targets: tuple[Target, ...]
    skipped: tuple[tuple[str, str], ...]
    policy: selection.Policy

    @property
    def size(self) -> int:
        """The number of prunable weights."""
        return sum(target.kernel.size for target in self.targets)

    @property
    def pruned(self) -> int:
        """How many of them are pruned."""
        return self.size - sum(
            int(ops.count_nonzero(target.mask.value)) for target in self.targets
        )

    def choose(
        self, kernels, sparsity: float, masks, gradients=None, policy=None
    ) -> selection.Chosen:
        """Chooses which weights stay; `policy` defaults to its own."""
        return selection.choose(
            kernels,
            sparsity,
            self.policy if policy is None else policy,
            masks=masks,
            layouts=[target.kernel.layout for target in self.targets],
            names=[target.path for target in self.targets],
            gradients=gradients,
        )

    def read(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Kernels and masks as arrays."""
        return (
            [
                ops.convert_to_numpy(target.kernel.variable.value)
                for target in self.targets
            ],
            [
                ops.convert_to_numpy(target.mask.value)
                for target in self.targets
            ],
        )

    def gradients(self, model, samples, limit=None) -> list[np.ndarray] | None:
        """The gradients that the criterion needs, or `None` if it does not."""
        if not self.policy.criterion.needs_gradients:
            return None
        return gradients(
            model,
            [target.kernel.variable for target in self.targets],
            samples,
            limit,
        )


def find_targets(
    model: keras.Model, policy: selection.Policy, filters=None, exclude=None
) -> Targets:
    """Finds the masked kernels that pruning by `policy` acts on.

    Raises:
        ValueError: If `model` has no mask, or a kernel has two, or is used
            outside its `Masked` layer too, or nothing is left to prune.
    """
    found = _all_targets(model)
    reasons = _not_masked(model)
    prunable = None
    if filters is not None or exclude is not None:
        # The names are those of the plain model. All that is masked counts,
        # an embedding too.
        plain = model.wrapper.layer if isinstance(model, MaskedModel) else model
        prunable = find_prunable(
            plain, (lambda _: True) if filters is None else filters, exclude
        )
    kept = []
    for target in found:
        reason = policy.granularity.refuses(target.kernel.layout)
        if prunable is not None:
            reason = prunable.reason(target.kernel.variable) or reason
        if reason is None:
            kept.append(target)
        else:
            reasons[target.path] = reason
    if not kept:
        raise ValueError(
            "`filters`, `exclude` and `granularity` must leave a kernel to "
            "prune. Received: "
            + ", ".join(f"{t.path} ({reasons[t.path]})" for t in found)
        )
    by_kernel = {
        name: selection.by_kernel(
            name,
            getattr(policy, name),
            [target.path for target in kept],
            others=list(reasons),
        )
        for name in ("max_layer_sparsity", "layer_sparsity")
        if getattr(policy, name) is not None
    }
    policy = dataclasses.replace(policy, **by_kernel)
    return Targets(tuple(kept), tuple(reasons.items()), policy)


def _all_targets(model):
    found = masked_layers(model) if isinstance(model, keras.Layer) else []
    if not found:
        raise ValueError(
            "`model` must be wrapped: call `model = keras_bimp.wrap(model)` "
            "first, or put `keras_bimp.Masked` around layers inside it. "
            f"Received: model={model!r}"
        )
    by_id = {}
    unmasked = _variables_outside_masks(model)
    for masked in found:
        for kernel, mask, rule in zip(
            masked.kernels, masked.masks, masked.rules, strict=True
        ):
            key = id(kernel.variable)
            if key in by_id or key in unmasked:
                raise ValueError(
                    "A kernel must belong to one `Masked` layer and be used "
                    "nowhere else, or it would grow back. Received: "
                    f"'{kernel.path}', which several layers hold. Call one "
                    "`Masked` layer several times instead"
                )
            by_id[key] = kernel, mask, rule
    ordered = [
        by_id[id(v)] for v in model.trainable_variables if id(v) in by_id
    ]
    if not ordered:
        raise ValueError(
            "`model` must have a masked kernel that is built and trainable. "
            f"Received: model={model!r}"
        )
    paths = unique_paths(kernel for kernel, _, _ in ordered)
    return [
        Target(*masked, path)
        for masked, path in zip(ordered, paths, strict=True)
    ]


def _not_masked(model):
    """Path -> reason of all kernels that are not masked or not trained."""
    masked = masked_layers(model)
    inside = {id(k.variable) for layer in masked for k in layer.kernels}
    reasons = {
        kernel.path: "not masked"
        for kernel in find_prunable(model, lambda layer: True).kernels
        if id(kernel.variable) not in inside
    }
    reasons.update(find_prunable(model).skipped)
    for layer in masked:
        reasons.update(layer.skipped)
    return reasons


def _variables_outside_masks(layer):
    if isinstance(layer, Masked):
        return set()
    # What is masked may be listed around the mask too: ask layers without
    # layers inside only.
    if not layer._layers:
        return {id(v) for v in layer.weights}
    return set().union(*map(_variables_outside_masks, layer._layers))


def prune(
    model: keras.Model,
    target_sparsity: float,
    *,
    allocation: str | Callable | selection.Allocation | None = None,
    criterion: str | Callable | selection.Criterion = "magnitude",
    granularity: str | selection.Granularity = "weight",
    optimizer: keras.optimizers.Optimizer | None = None,
    on_collapse: str = "protect",
    max_layer_sparsity: float | Mapping[str, float] | None = None,
    layer_sparsity: Mapping[str, float] | None = None,
    filters: str | list[str] | Callable | None = None,
    exclude: str | list[str] | Callable | None = None,
    data=None,
    data_fraction: float = 1.0,
) -> Pruning:
    """Prunes a wrapped model now. For training loops of your own.

    Sets the masks; with hard pruning also zeros the pruned weights and what
    the optimizer remembers of them, so that any checkpoint is sparse. What is
    pruned stays pruned. `keras_bimp.callbacks` does all this during `fit`.

    Args:
        model: A model made by `wrap`, or with `Masked` layers inside.
        target_sparsity: Float in [0, 1), the fraction of all prunable weights
            (filters, blocks) that is pruned after the call: exactly
            `round(target * weights)`; where the allocation gives each kernel
            its share, the sum of what each one rounds.
        allocation: See `keras_bimp.select`.
        criterion: See `keras_bimp.select`.
        granularity: See `keras_bimp.select`.
        optimizer: The optimizer that trains `model`. Defaults to the compiled
            one.
        on_collapse: See `keras_bimp.select`. Defaults to `"protect"`.
        max_layer_sparsity: The sparsity that no kernel exceeds: a float in
            [0, 1), or a mapping from names of kernels, or regexes searched in
            them, to floats. What they spare, the others give up.
        layer_sparsity: Mapping from names of kernels, or regexes, to the
            sparsity that they have whatever the allocation says; 0.0 leaves
            one as it is. The total stays what it is.
        filters: Which layers to prune: a regex or list of regexes searched in
            the layer's name and path, or a callable layer -> bool. Others do
            not count. Defaults to all that are masked.
        exclude: Which of them not to prune, said in the same way.
        data: For `criterion="saliency"`: a tuple of arrays `(x, y)`, or
            batches.
        data_fraction: Float in (0, 1], how much of `data` to use: its first
            batches.

    Returns:
        A `Pruning`.

    Raises:
        ValueError: If the model is not wrapped, a weight is not finite, no
            weight would be left, the optimizer would move pruned weights, or
            the arguments do not go together. Nothing has changed then.

    Example:

    ```python
    model = keras_bimp.wrap(build_model())
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    for epoch in range(30):
        if epoch in (10, 20):
            keras_bimp.prune(model, {10: 0.7, 20: 0.9}[epoch],
                             optimizer=optimizer)
        for x, y in train:
            with tf.GradientTape() as tape:
                loss = loss_fn(y, model(x, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
    ```
    """
    policy = selection.as_policy(
        allocation,
        criterion,
        granularity,
        on_collapse,
        max_layer_sparsity,
        layer_sparsity,
    )
    target_sparsity = policy.check_target("target_sparsity", target_sparsity)
    samples = samples_for(policy, data, data_fraction)
    if samples is not None and not policy.criterion.needs_gradients:
        raise ValueError(
            "`data` must not be given for this criterion, which has no use "
            f"for it. Received: criterion={criterion!r}"
        )
    found = find_targets(model, policy, filters, exclude)
    if optimizer is None and getattr(model, "compiled", False):
        optimizer = model.optimizer
    check_optimizer(optimizer, found)
    return prune_to(
        found,
        target_sparsity,
        optimizer,
        gradients=found.gradients(model, samples),
    )


def samples_for(
    policy: selection.Policy, data, data_fraction: float
) -> Samples | None:
    """The data of an argument `data`, which `policy` may need."""
    check_fraction(data_fraction)
    if data is not None:
        return Samples(data, data_fraction)
    if policy.criterion.needs_gradients:
        raise ValueError(
            "`data` must be given for criterion='saliency': the training data "
            "that gradients are taken of. Received: data=None"
        )
    return None


def check_optimizer(optimizer, found: Targets) -> None:
    """Raises ValueError if the optimizer would move pruned weights."""
    if optimizer is not None and any(t.rule.hard for t in found.targets):
        check_keeps_zeros(
            optimizer, {len(t.kernel.variable.shape) for t in found.targets}
        )


def prune_to(
    found: Targets, sparsity: float, optimizer, *, gradients=None, policy=None
) -> Pruning:
    """Prunes to a sparsity of all units in all. See `prune`."""
    kernels, masks = found.read()
    total = found.size
    before = total - sum(np.count_nonzero(mask) for mask in masks)
    chosen = found.choose(kernels, sparsity, masks, gradients, policy)
    norm, removed = selection.norms(kernels, masks, chosen.masks)
    after = total - sum(int(np.count_nonzero(mask)) for mask in chosen.masks)
    if after > before:
        _set_masks(found.targets, chosen.masks, optimizer)
    elif found.policy.exact and before > round(sparsity * total):
        warnings.warn(
            f"{before:,} of {total:,} weights are pruned already, more than "
            f"the {round(sparsity * total):,} that were asked for. Pruned "
            "weights never grow back.",
            stacklevel=3,
        )
    return Pruning(
        counts={
            t.path: int(np.count_nonzero(mask))
            for t, mask in zip(found.targets, chosen.masks, strict=True)
        },
        norm_drop=removed / norm if norm else 0.0,
        pruned_fraction=float(after - before) / max(float(total - before), 1),
        protected=tuple(found.targets[i].path for i in chosen.collapsed)
        if found.policy.on_collapse == "protect"
        else (),
        skipped=found.skipped,
    )


def _set_masks(found, masks, optimizer):
    hard = [target for target in found if target.rule.hard]
    kernels = [target.kernel.variable for target in hard]
    if optimizer is not None and hard:
        slots(optimizer, kernels)  # Raises before anything has changed.
    for target, mask in zip(found, masks, strict=True):
        target.mask.assign(mask)
    zero_pruned(kernels, [target.mask for target in hard], optimizer)
