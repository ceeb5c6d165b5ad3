"""Prunings that are tried on copies, before anything has changed."""

import dataclasses
import math

import numpy as np

from keras_bimp._src import selection
from keras_bimp._src.plan import Plan
from keras_bimp._src.retraining.targets import Targets


def policy_at(
    found: Targets, sparsity: float, target_sparsity: float
) -> selection.Policy:
    """The policy of a pruning on the way to a target."""
    progress = 1.0
    if sparsity < target_sparsity:
        progress = math.log1p(-sparsity) / math.log1p(-target_sparsity)
    return found.policy.part_way(progress)


def planned_pruned(
    plan: Plan, found: Targets, gradients, on_collapse: str
) -> tuple[list[int], list[int]]:
    """How many weights are pruned at the end of each phase of a plan.

    Prunes copies, cycle by cycle, with the weights as they are now.

    Args:
        plan: The plan.
        found: What is pruned.
        gradients: What `found.choose` takes.
        on_collapse: See `keras_bimp.select`.

    Returns:
        Two lists: from the masks as they are, and, for a model whose masks
        are not all full, from full ones: the run from its beginning.

    Raises:
        ValueError: What a pruning would raise.
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
            # What a later pruning would raise for depends on the training.
            if on_collapse == "raise":
                on_collapse = "ignore"
        pruned.append(found.size - sum(selection.counts(masks)))
    return pruned


def _all_kept(mask):
    if isinstance(mask, selection.Shards):
        return mask.map(np.ones_like)
    return np.ones_like(mask)
