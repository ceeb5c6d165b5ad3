"""One pruning of a masked model."""

import dataclasses
import warnings
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_bimp import selection
from keras_bimp.checks import check_sparsity
from keras_bimp.masking import Kernel
from keras_bimp.masking import Masked
from keras_bimp.masking import Rule
from keras_bimp.masking import masked_layers
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
    """

    counts: dict[str, int]
    norm_drop: float
    pruned_fraction: float
    protected: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Target:
    """A kernel that pruning acts on, with its mask and its rule.

    `path` is the kernel's, made unique where several have the same.
    """

    kernel: Kernel
    mask: keras.Variable
    rule: Rule
    path: str


def targets(model: keras.Model) -> list[Target]:
    """What pruning acts on, by first appearance in `trainable_variables`.

    Raises:
        ValueError: If `model` has no mask, or a kernel has two, or is used
            outside its `Masked` layer too.
    """
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
    ordered = []
    for variable in model.trainable_variables:
        if id(variable) in by_id:
            same = sum(t.kernel.path == variable.path for t in ordered)
            path = f"{variable.path} ({same + 1})" if same else variable.path
            ordered.append(Target(*by_id[id(variable)], path))
    if not ordered:
        raise ValueError(
            "`model` must have a masked kernel that is built and trainable. "
            f"Received: model={model!r}"
        )
    return ordered


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
    allocation: str | Callable = "global",
    criterion: str | Callable = "magnitude",
    granularity: str = "weight",
    optimizer: keras.optimizers.Optimizer | None = None,
    on_collapse: str = "protect",
) -> Pruning:
    """Prunes a wrapped model now. For training loops of your own.

    Sets the masks; with hard pruning also zeros the pruned weights and what
    the optimizer remembers of them, so that any checkpoint is sparse. What is
    pruned stays pruned. `keras_bimp.callbacks` does all this during `fit`.

    Args:
        model: A model made by `wrap`, or with `Masked` layers inside.
        target_sparsity: Float in [0, 1), the fraction of all prunable weights
            that is pruned after the call: exactly `round(target * weights)`.
        allocation: See `keras_bimp.select`.
        criterion: See `keras_bimp.select`.
        granularity: See `keras_bimp.select`.
        optimizer: The optimizer that trains `model`. Defaults to the compiled
            one.
        on_collapse: See `keras_bimp.select`. Defaults to `"protect"`.

    Returns:
        A `Pruning`.

    Raises:
        ValueError: If the model is not wrapped, a weight is not finite, no
            weight would be left, or the optimizer would move pruned weights.
            Nothing has changed then.

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
    target_sparsity = check_sparsity("target_sparsity", target_sparsity)
    selection.check_rules(allocation, criterion, granularity, on_collapse)
    found = targets(model)
    total = sum(target.kernel.size for target in found)
    if optimizer is None and getattr(model, "compiled", False):
        optimizer = model.optimizer
    if optimizer is not None and any(t.rule.hard for t in found):
        check_keeps_zeros(
            optimizer, {len(t.kernel.variable.shape) for t in found}
        )
    return prune_to(
        found,
        round(target_sparsity * total),
        optimizer,
        allocation=allocation,
        criterion=criterion,
        granularity=granularity,
        on_collapse=on_collapse,
    )


def prune_to(
    found: list[Target],
    count: int,
    optimizer,
    *,
    on_collapse: str,
    **how,
) -> Pruning:
    """Prunes to `count` pruned weights in all. See `prune`."""
    kernels, masks = read(found)
    total = sum(mask.size for mask in masks)
    before = total - sum(np.count_nonzero(mask) for mask in masks)
    if count < before:
        warnings.warn(
            f"{before:,} of {total:,} weights are pruned already, more than "
            f"the {count:,} that were asked for. Pruned weights never grow "
            "back.",
            stacklevel=3,
        )
    new_masks, collapsed = selection.select_count(
        kernels,
        count,
        masks=masks,
        output_units=[target.kernel.output_units for target in found],
        on_collapse=on_collapse,
        **how,
    )
    norm, removed = selection.norms(kernels, masks, new_masks)
    if any((m != n).any() for m, n in zip(masks, new_masks, strict=True)):
        _set_masks(found, new_masks, optimizer)
    after = total - sum(int(np.count_nonzero(mask)) for mask in new_masks)
    return Pruning(
        counts={
            t.path: int(np.count_nonzero(mask))
            for t, mask in zip(found, new_masks, strict=True)
        },
        norm_drop=removed / norm if norm else 0.0,
        pruned_fraction=float(after - before) / float(total - before),
        protected=tuple(found[i].path for i in collapsed)
        if on_collapse == "protect"
        else (),
    )


def read(found: list[Target]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Kernels and masks as arrays.

    Raises:
        ValueError: If a weight is not finite.
    """
    kernels, masks = [], []
    for target in found:
        kernel = ops.convert_to_numpy(target.kernel.variable.value)
        finite = np.isfinite(kernel.astype("float32", copy=False))
        if not finite.all():
            index = tuple(map(int, np.argwhere(~finite)[0]))
            raise ValueError(
                "All weights must be finite to be ranked. "
                f"Received: {kernel[index]} in '{target.path}' at index {index}"
            )
        kernels.append(kernel)
        masks.append(ops.convert_to_numpy(target.mask.value))
    return kernels, masks


def _set_masks(found, masks, optimizer):
    hard = [target for target in found if target.rule.hard]
    kernels = [target.kernel.variable for target in hard]
    if optimizer is not None and hard:
        slots(optimizer, kernels)  # Raises before anything has changed.
    for target, mask in zip(found, masks, strict=True):
        target.mask.assign(mask)
    zero_pruned(kernels, [target.mask for target in hard], optimizer)
