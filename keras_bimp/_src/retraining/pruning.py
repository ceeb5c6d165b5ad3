"""One pruning of a masked model."""

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
    """What one pruning did.

    Args:
        counts: Path of each kernel -> number of its weights that are left.
        norm_drop: Norm of what was removed over the norm of all prunable
            weights just before.
        pruned_fraction: Share of the weights remaining before that was
            removed.
        protected: Paths of the kernels that would have collapsed.
        skipped: Pairs (path, reason) of kernels that stay as they are.
        units: With `granularity="unit"`: name of what each layer has, as
            `"heads of attention"` -> pair of how many are left, of how many.
        discount: Of the learning rate of the cycle that it begins; `None`
            where that does not adapt.

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
        """Makes one of what `dataclasses.asdict` returned, lists for tuples."""
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
        """What to print of a pruning.

        Args:
            name: Of the cycle.
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
    """Prunes a wrapped model now. For training loops of your own.

    Sets the masks; with hard pruning also zeros the pruned weights and what
    the optimizer remembers of them, so that any checkpoint is sparse. What is
    pruned stays pruned. `keras_bimp.callbacks` does all this during `fit`.

    Args:
        model: A model made by `wrap`, or with `Masked` layers inside.
        target_sparsity: Float in [0, 1), the fraction of all prunable weights
            (filters, units, blocks) that is pruned after the call: exactly
            `round(target * weights)`; where the allocation gives each kernel
            its share, the sum of what each one rounds.
        allocation: See `keras_bimp.select`.
        criterion: See `keras_bimp.select`.
        granularity: See `keras_bimp.select`.
        optimizer: The Keras optimizer that trains `model`, or a list of them
            if several do; an empty list says that none has yet. Defaults to
            the compiled one, and to those that are attributes of a model with
            a `train_step` of its own. Compile your own step again after
            the call if it uses an optimizer that mixes the entries of a
            kernel, as Muon does.
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
        TypeError: If `optimizer` is none of Keras.
        ValueError: If the model is not wrapped, a weight is not finite, no
            weight would be left, the optimizer would move pruned weights, or
            the arguments do not go together. Nothing has changed then.

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
            "`data` must not be given for this criterion, which has no use "
            f"for it. Received: criterion={criterion!r}"
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
    """Prunes to a total sparsity of all units. See `prune`.

    Args:
        model: The model.
        found: What is pruned.
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
    del chosen, kernels, masks  # Or old and new weights would be in memory.
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
    """Sets masks, and does all that follows from it.

    Pruned weights are 0 and stay so, and so does what the optimizer remembers
    of them. The train step is compiled again if it must be.

    Args:
        model: The model.
        found: What is masked.
        masks: A mask for each target, which this empties; `None` if they are
            set already.
        optimizer: What trains the model, or `None` to leave it alone.
        held: What `kernels_to_hold` found.
        forget: Whether the optimizer forgets weights, too, that are not
            pruned for good.
    """
    if masks is not None:
        kinds = {True: [], False: []}
        for target in found.targets:
            kinds[target.rule.hard].append(target)
        if optimizer is not None and kinds[True]:
            # Raises before anything has changed.
            slots(optimizer, [t.kernel.variable for t in kinds[True]])
        masks.reverse()
        for target in found.targets:
            mask = masks.pop()  # So that it takes memory no longer.
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
