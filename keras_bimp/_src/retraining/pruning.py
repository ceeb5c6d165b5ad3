"""A single pruning of a masked model."""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping

import keras

from keras_bimp._src import selection
from keras_bimp._src.backends import compile_anew
from keras_bimp._src.masking import hold_zeros
from keras_bimp._src.masking import kernels_to_hold
from keras_bimp._src.model_record import record_of
from keras_bimp._src.name_lists import listed
from keras_bimp._src.processes import check_agreement
from keras_bimp._src.retraining.own_optimizers import optimizers_of
from keras_bimp._src.retraining.own_optimizers import warn_if_moved
from keras_bimp._src.retraining.own_optimizers import warn_if_unknown
from keras_bimp._src.retraining.samples import Samples
from keras_bimp._src.retraining.samples import check_fraction
from keras_bimp._src.retraining.targets import Targets
from keras_bimp._src.retraining.targets import find_targets
from keras_bimp._src.slots import check_optimizer
from keras_bimp._src.slots import slots
from keras_bimp._src.slots import zero_pruned


@dataclasses.dataclass(frozen=True)
class Pruning:
    """The result of one pruning.

    Args:
        counts: Path of each kernel -> number of its remaining weights.
        norm_drop: Norm of the removed weights divided by the norm of all
            prunable weights just before.
        pruned_fraction: Share of the previously remaining weights that was
            removed.
        protected: Paths of the kernels that would have collapsed.
        skipped: Pairs (path, reason) of kernels that are not pruned.
        units: With `granularity="unit"`: name of the units of a layer, such as
            `"heads of attention"` -> pair (number left, total number).
        discount: Discount of the learning rate in the following cycle; `None`
            if the retraining does not adapt.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> pruning = keras_bimp.prune(keras_bimp.wrap(model), 0.75)
    >>> list(pruning.counts.values()), pruning.pruned_fraction
    ([8], 0.75)
    """

    counts: dict[str, int]
    norm_drop: float
    pruned_fraction: float
    protected: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    units: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    discount: float | None = None

    @classmethod
    def of(cls, fields: dict) -> "Pruning":
        """Create one from `dataclasses.asdict`, with lists for tuples."""
        return cls(
            **{
                **fields,
                "protected": tuple(fields["protected"]),
                "skipped": tuple(map(tuple, fields["skipped"])),
                "units": {
                    name: tuple(counts)
                    for name, counts in fields["units"].items()
                },
            }
        )

    def lines(self, name: str, size: int) -> list[str]:
        """Return lines to print about the pruning.

        Args:
            name: Name of the cycle.
            size: Number of prunable weights.
        """
        adapted = self.discount is not None
        left = sum(self.counts.values())
        lines = [
            f"{name}: pruned to {1 - left / size:.2%}, "
            f"{left:,} of {size:,} weights left, {self._units_left()}"
            f"norm drop {self.norm_drop:.3f}"
            + (f", discount {self.discount:.3f}" if adapted else "")
        ]
        if self.protected:
            names = listed(
                f"{path} ({self.counts[path]} left)" for path in self.protected
            )
            lines.append(
                f"{name}: {len(self.protected)} protected from collapse: "
                f"{names}"
            )
        return lines

    def _units_left(self):
        if not self.units:
            return ""
        left, total = map(sum, zip(*self.units.values(), strict=True))
        return f"{left:,} of {total:,} units left, "


def prune(
    model: keras.Model,
    target_sparsity: float,
    *,
    allocation: str | Callable | selection.Allocation | None = None,
    criterion: str | Callable | selection.Criterion = "magnitude",
    granularity: str | selection.Granularity = "weight",
    optimizer: keras.optimizers.Optimizer
    | list[keras.optimizers.Optimizer]
    | None = None,
    on_collapse: str = "protect",
    max_layer_sparsity: float | Mapping[str, float] | None = None,
    layer_sparsity: Mapping[str, float] | None = None,
    filters: str | list[str] | Callable | None = None,
    exclude: str | list[str] | Callable | None = None,
    data=None,
    data_fraction: float = 1.0,
) -> Pruning:
    """Prune a wrapped model now. For custom training loops.

    Sets the masks. Hard pruning also zeros the pruned weights and their
    optimizer slots, so that checkpoints are sparse. Pruned weights stay
    pruned. `keras_bimp.callbacks` does all this during `fit`.

    Args:
        model: A model made by `wrap`, or with `Masked` layers inside.
        target_sparsity: Float in [0, 1), the fraction of all prunable weights
            (filters, units, blocks) that is pruned after the call: exactly
            `round(target * weights)`. If the allocation gives each kernel its
            own share, each share is rounded.
        allocation: See `keras_bimp.select`.
        criterion: See `keras_bimp.select`.
        granularity: See `keras_bimp.select`.
        optimizer: The Keras optimizer that trains `model`, or a list of
            several; an empty list means none yet. Defaults to the compiled
            one, and to those that are attributes of a model with its own
            `train_step`. Recompile a custom train step after the call if its
            optimizer mixes the entries of a kernel, such as Muon.
        on_collapse: See `keras_bimp.select`. Defaults to `"protect"`.
        max_layer_sparsity: The highest sparsity of any kernel: a float in
            [0, 1), or a mapping from names of kernels, or regexes searched in
            them, to floats. Other kernels lose more, so that the total stays
            exact.
        layer_sparsity: Mapping from names of kernels, or regexes, to fixed
            sparsities, which override the allocation; 0.0 leaves a kernel
            unchanged. The total stays the same.
        filters: Which layers to prune: a regex or list of regexes searched in
            the layer's name and path, or a callable layer -> bool. Other
            layers do not count. Defaults to all masked layers.
        exclude: Which layers not to prune, in the same form.
        data: For `criterion="saliency"`: a tuple of arrays `(x, y)`, or
            batches.
        data_fraction: Float in (0, 1], the share of `data` to use: its first
            batches.

    Returns:
        A `Pruning`.

    Raises:
        TypeError: If `optimizer` is not a Keras optimizer.
        ValueError: If the model is not wrapped, a weight is not finite, no
            weight would be left, the optimizer would move pruned weights, or
            arguments are incompatible. The model is unchanged then.

    Example:

    ```python
    import tensorflow as tf

    model = keras_bimp.wrap(build_model())
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    loss_fn = keras.losses.SparseCategoricalCrossentropy()
    train = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
    sparsities = {10: 0.7, 20: 0.9}
    for epoch in range(30):
        if epoch in sparsities:
            keras_bimp.prune(model, sparsities[epoch], optimizer=optimizer)
        for images, labels in train:
            with tf.GradientTape() as tape:
                loss = loss_fn(labels, model(images, training=True))
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
            "`data` must not be given for this criterion, which does not use "
            f"it. Received: criterion={criterion!r}"
        )
    found = find_targets(model, policy, filters, exclude)
    if optimizer is None:
        optimizer = optimizers_of(model)
        kernels = [kernel for kernel, _ in found.hard]
        warn_if_unknown(model, kernels, optimizer)
    check_optimizer(optimizer)
    moved = kernels_to_hold(found.hard, optimizer)
    warn_if_moved(found)
    found.warn_if_beyond(target_sparsity)
    found.warn_if_staying()
    pruning = prune_to(
        model,
        found,
        target_sparsity,
        optimizer,
        held=moved,
        gradients=found.gradients(model, samples),
    )
    record = record_of(model)
    if record.progress and record.progress.weights == found.size:
        record.progress = record.progress.after_pruning(found.pruned)
    return pruning


def samples_for(
    policy: selection.Policy, data, data_fraction: float
) -> Samples | None:
    """Return the `Samples` for an argument `data`; check if it is needed."""
    check_fraction(data_fraction)
    if data is not None:
        return Samples(data, data_fraction)
    if policy.criterion.needs_gradients:
        raise ValueError(
            "`data` must be given for criterion='saliency': the training data "
            "to compute gradients on. Received: data=None"
        )
    return None


def prune_to(
    model: keras.Model,
    found: Targets,
    sparsity: float,
    optimizer,
    *,
    held: list[tuple] = (),
    gradients=None,
    policy=None,
) -> Pruning:
    """Prune to a total sparsity of all units. See `prune`.

    Args:
        model: The model.
        found: The `Targets` to prune.
        sparsity: Float in [0, 1).
        optimizer: See `apply_masks`.
        held: See `apply_masks`.
        gradients: See `Targets.choose`.
        policy: See `Targets.choose`.
    """
    kernels, masks = found.read()
    total = found.size
    before = total - sum(selection.counts(masks))
    chosen = found.choose(kernels, sparsity, masks, gradients, policy)
    paths = [target.path for target in found.targets]
    check_agreement(*selection.digests(chosen.masks, paths))
    norm, removed = selection.norms(kernels, masks, chosen.masks)
    left = selection.counts(chosen.masks)
    after = total - sum(left)
    pruning = Pruning(
        counts=dict(zip(paths, left, strict=True)),
        norm_drop=removed / norm if norm else 0.0,
        pruned_fraction=float(after - before) / max(float(total - before), 1),
        protected=tuple(found.targets[i].path for i in chosen.collapsed)
        if found.policy.on_collapse == "protect"
        else (),
        skipped=found.skipped,
        units=chosen.units,
    )
    new_masks = chosen.masks
    del chosen, kernels, masks  # Do not hold both old and new weights.
    if after == before:
        new_masks = None
    apply_masks(model, found, new_masks, optimizer, held)
    return pruning


def apply_masks(
    model: keras.Model,
    found: Targets,
    masks: list | None,
    optimizer=None,
    held: list[tuple] = (),
    forget: bool = False,
) -> None:
    """Set masks and update everything that depends on them.

    Pruned weights and their optimizer slots become 0 and stay 0. The train
    step is recompiled if needed.

    Args:
        model: The model.
        found: The `Targets` that are masked.
        masks: A mask for each target; the list is emptied. `None` if they are
            already set.
        optimizer: The optimizer of the model, or `None` to leave it unchanged.
        held: The result of `kernels_to_hold`.
        forget: Whether to reset the optimizer slots of pruned weights even if
            they are not pruned for good.
    """
    if masks is not None:
        kinds = {True: [], False: []}
        for target in found.targets:
            kinds[target.rule.hard].append(target)
        if optimizer is not None and kinds[True]:
            # Raises an error before anything changes.
            slots(optimizer, [t.kernel.variable for t in kinds[True]])
        masks.reverse()
        for target in found.targets:
            mask = masks.pop()  # To free its memory.
            if isinstance(mask, selection.Shards):
                mask = mask.spread()
            target.mask.assign(mask)
        for hard, targets in kinds.items():
            if hard or forget:
                zero_pruned(
                    [target.kernel.variable for target in targets],
                    [target.mask for target in targets],
                    optimizer,
                    weights=hard,
                )
    if hold_zeros(held):
        compile_anew(model)
