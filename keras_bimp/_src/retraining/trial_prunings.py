"""Trial prunings on copies, before anything changes."""

import dataclasses
import math

import numpy as np

from keras_bimp._src import selection
from keras_bimp._src.plan import Plan
from keras_bimp._src.retraining.targets import Targets


def policy_at(
    found: Targets, sparsity: float, target_sparsity: float
) -> selection.Policy:
    """Return the policy of an intermediate pruning."""
    progress = 1.0
    if sparsity < target_sparsity:
        progress = math.log1p(-sparsity) / math.log1p(-target_sparsity)
    return found.policy.part_way(progress)


def planned_pruned(
    plan: Plan, found: Targets, gradients, on_collapse: str
) -> tuple[list[int], list[int]]:
    """Return how many weights are pruned at the end of each phase of a plan.

    Prunes copies cycle by cycle, with the current weights.

    Args:
        plan: The plan.
        found: The `Targets` to prune.
        gradients: See `Targets.choose`.
        on_collapse: See `keras_bimp.select`.

    Returns:
        Two lists: one that starts from the current masks and, if these already
        prune weights, one that starts from full masks, like the whole run.

    Raises:
        ValueError: If a pruning would raise it.
    """
    kernels, masks = found.read()
    pruned = _pruned(plan, found, kernels, masks, gradients, on_collapse)
    if all(mask.all() for mask in masks):
        return pruned, pruned
    full = [_all_kept(mask) for mask in masks]
    return pruned, _pruned(plan, found, kernels, full, gradients, "ignore")


def _pruned(plan, found, kernels, masks, gradients, on_collapse):
    pruned = []
    sparsities = plan.sparsities(found.size)
    for phase, sparsity in zip(plan.phases, sparsities, strict=True):
        if phase.prunes:
            policy = dataclasses.replace(
                policy_at(found, sparsity, plan.target_sparsity),
                on_collapse=on_collapse,
            )
            masks = found.choose(
                kernels, sparsity, masks, gradients, policy
            ).masks
            # Later prunings depend on the training, so they cannot raise yet.
            if on_collapse == "raise":
                on_collapse = "ignore"
        pruned.append(found.size - sum(selection.counts(masks)))
    return pruned


def _all_kept(mask):
    if isinstance(mask, selection.Shards):
        return mask.map(np.ones_like)
    return np.ones_like(mask)
