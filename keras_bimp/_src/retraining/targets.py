"""Find the kernels of a model to prune."""

import collections
import dataclasses
import warnings

import keras
import numpy as np

from keras_bimp._src import selection
from keras_bimp._src.backends import as_array
from keras_bimp._src.backends import count_nonzero
from keras_bimp._src.backends import is_spread
from keras_bimp._src.backends import strategy_scope
from keras_bimp._src.keras_internals.layers import layers_of
from keras_bimp._src.masking import Kernel
from keras_bimp._src.masking import Masked
from keras_bimp._src.masking import MaskedModel
from keras_bimp._src.masking import Rule
from keras_bimp._src.masking import find_prunable
from keras_bimp._src.masking import how_to_mask
from keras_bimp._src.masking import masked_layers
from keras_bimp._src.masking import others_that_mask
from keras_bimp._src.masking import unique_paths
from keras_bimp._src.name_lists import listed
from keras_bimp._src.retraining.loss_gradients import gradients
from keras_bimp._src.shrinking import find_groups
from keras_bimp._src.shrinking import find_units


@dataclasses.dataclass(frozen=True)
class Target:
    """A kernel to prune, with its mask and rule.

    `path` is the path of the kernel, made unique.
    """

    kernel: Kernel
    mask: keras.Variable
    rule: Rule
    path: str


@dataclasses.dataclass(frozen=True)
class Targets:
    """The kernels to prune, and the selection.

    Args:
        targets: Ordered by first appearance in `trainable_variables`.
        skipped: Pairs (path, reason) of the model's other kernels.
        policy: The selection.
        groups: Weights to prune together: the `Structures` of the targets; or
            per target one number per filter, equal for filters to prune
            together. `None` if the policy does not need it.
        staying: Pairs (path, reason) of targets that `shrink` cannot make
            smaller, if the policy is meant for `shrink`.
    """

    targets: tuple[Target, ...]
    skipped: tuple[tuple[str, str], ...]
    policy: selection.Policy
    groups: tuple[np.ndarray, ...] | selection.Structures | None = None
    staying: tuple[tuple[str, str], ...] = ()

    @property
    def hard(self) -> list[tuple[keras.Variable, keras.Variable]]:
        """Pairs (kernel, mask) of the kernels that are pruned for good."""
        return [
            (target.kernel.variable, target.mask)
            for target in self.targets
            if target.rule.hard
        ]

    @property
    def size(self) -> int:
        """The number of prunable weights."""
        return sum(target.kernel.size for target in self.targets)

    @property
    def pruned(self) -> int:
        """The number of pruned weights."""
        return self.size - sum(
            count_nonzero(target.mask.value) for target in self.targets
        )

    def warn_if_beyond(self, sparsity: float) -> bool:
        """Warn if more is already pruned than asked; return whether it did."""
        pruned, asked = self.pruned, round(sparsity * self.size)
        beyond = self.policy.exact and pruned > asked
        if beyond:
            warnings.warn(
                f"{pruned:,} of {self.size:,} weights are already pruned, more "
                f"than the {asked:,} requested. Pruned weights never "
                "grow back.",
                stacklevel=3,
            )
        return beyond

    def warn_if_staying(self) -> None:
        """Warn if filters are pruned that `shrink` cannot remove."""
        if not self.staying:
            return
        first = "; ".join(f"{path} ({why})" for path, why in self.staying[:3])
        more = len(self.staying) - 3
        warnings.warn(
            f"`shrink` cannot remove filters from {len(self.staying)} of "
            f"{len(self.targets)} kernels that allocation='coupled' prunes: "
            f"{first}{f'; and {more} more' if more > 0 else ''}. Leave them "
            "out by `exclude`, or pass granularity='unit', which leaves such "
            "kernels unchanged.",
            stacklevel=3,
        )

    def __str__(self):
        """Return a description of the selection."""
        if not isinstance(self.groups, selection.Structures):
            return str(self.policy)
        counts = collections.Counter()
        for pool in self.groups.pools:
            counts[pool.kind] += len(pool.members)
        units = ", ".join(f"{n:,} {kind}" for kind, n in counts.items())
        return str(self.policy).replace("units,", f"units ({units}),", 1)

    def choose(
        self, kernels, sparsity: float, masks, gradients=None, policy=None
    ) -> selection.Chosen:
        """Choose which weights stay; `policy` defaults to `self.policy`."""
        return selection.choose(
            kernels,
            sparsity,
            self.policy if policy is None else policy,
            masks=masks,
            layouts=[target.kernel.layout for target in self.targets],
            names=[target.path for target in self.targets],
            gradients=gradients,
            groups=self.groups,
        )

    def read(self) -> tuple[list, list]:
        """Return kernels and masks as arrays or `Shards`.

        They are `Shards` if spread over several processes, unless the policy
        needs whole kernels.
        """
        kernels = [self._read(t.kernel.variable) for t in self.targets]
        return kernels, [self._read(t.mask) for t in self.targets]

    def _read(self, variable):
        if is_spread(variable) and not self.policy.needs_arrays:
            return selection.Shards.of(variable.value)
        return as_array(variable, copy=False)

    def gradients(self, model, samples, limit=None) -> list[np.ndarray] | None:
        """Return the gradients that the criterion needs, or `None`."""
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
    """Find the masked kernels to prune by `policy`.

    Raises:
        ValueError: If `model` has no mask, a kernel has two masks or is used
            outside its `Masked` layer, or nothing is left to prune.
    """
    found = _all_targets(model)
    reasons = _not_masked(model)
    prunable = None
    if filters is not None or exclude is not None:
        # Names refer to the plain model. Everything masked counts, including
        # embeddings.
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
    structures = None
    if isinstance(policy.granularity, selection.Unit) and kept:
        kept, structures, without = _with_units(model, kept)
        reasons.update(without)
    if not kept:
        raise ValueError(
            "`filters`, `exclude` and `granularity` must leave a kernel to "
            "prune. Received: "
            + listed(f"{t.path} ({reasons[t.path]})" for t in found)
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
    groups, staying = structures, ()
    if structures is None and getattr(policy.allocation, "needs_groups", False):
        groups, staying = _groups(model, kept)
    return Targets(tuple(kept), tuple(reasons.items()), policy, groups, staying)


def _groups(model, targets):
    kernels = [target.kernel for target in targets]
    found = find_groups(model, [kernel.variable for kernel in kernels])
    groups = tuple(
        group[: kernel.output_units]
        for group, kernel in zip(found.numbers, kernels, strict=True)
    )
    return groups, tuple(
        (target.path, reason)
        for target, reason in zip(targets, found.stay, strict=True)
        if reason is not None
    )


def _with_units(model, targets):
    """Return targets with units, the units, and reasons for the others."""
    parts, why = find_units(model, [t.kernel.variable for t in targets])
    part = [i for i, reason in enumerate(why) if reason is None]
    return (
        [targets[i] for i in part],
        selection.Structures([parts[i] for i in part]),
        {
            target.path: reason
            for target, reason in zip(targets, why, strict=True)
            if reason is not None
        },
    )


def _all_targets(model):
    found = masked_layers(model) if isinstance(model, keras.Layer) else []
    if not found:
        raise ValueError(
            f"`model` must be wrapped: {how_to_mask(model)}. "
            f"Received: model={model!r}"
        )
    with strategy_scope(model):
        for masked in found:
            masked.mask_unfrozen()
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
                    "`Masked` layer several times, and create it where the "
                    "layer is created: Keras also tracks what the attribute "
                    "held before"
                )
            by_id[key] = kernel, mask, rule
    for kernel, _, _ in by_id.values():
        if others_that_mask(kernel.variable, found):
            raise ValueError(
                "A kernel must belong to one `Masked` layer, or it would grow "
                f"back. Received: '{kernel.path}', which another wrapped "
                "model masks too. Wrap one model that holds everything that is "
                "trained, or strip the other one first"
            )
    ordered = [
        by_id[id(v)] for v in model.trainable_variables if id(v) in by_id
    ]
    if not ordered:
        advice = ""
        if not all(masked.built for masked in found):
            advice = ". Call it on a batch first, as in `model(x[:1])`"
        raise ValueError(
            "`model` must have a masked kernel that is built and trainable. "
            f"Received: model={model!r}{advice}"
        )
    paths = unique_paths(kernel for kernel, _, _ in ordered)
    return [
        Target(*masked, path)
        for masked, path in zip(ordered, paths, strict=True)
    ]


def _not_masked(model):
    """Return path -> reason of kernels that are not masked or not trained."""
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
    # Masked variables may also be listed by outer layers. So ask only layers
    # without inner layers.
    if not layers_of(layer):
        return {id(v) for v in layer.weights}
    return set().union(*map(_variables_outside_masks, layers_of(layer)))
