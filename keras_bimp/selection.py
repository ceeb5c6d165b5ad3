"""Selection: which weights stay. Pure functions of NumPy arrays.

Three pieces compose:

- a criterion gives every weight of a kernel a score;
- an allocation turns all scores and a sparsity into the NUMBER of weights
  that each kernel keeps;
- one exact top-k per kernel keeps that many of its highest scores.

Counts are exact. Among equal scores the lower index is pruned first: kernels
in model order, entries of a kernel in row-major order.
"""

import math
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from keras_bimp.checks import check_choice
from keras_bimp.checks import check_sparsity

# What an already pruned weight scores: less than any weight that is alive.
_PRUNED = -np.inf


def magnitude(kernel: np.ndarray) -> np.ndarray:
    """The criterion of magnitude pruning: `abs(kernel)`, at least float32."""
    kernel = np.asarray(kernel)
    if kernel.dtype != np.float64:
        kernel = kernel.astype(np.float32)
    return np.abs(kernel)


def global_allocation(
    scores: Sequence[np.ndarray], sparsity: float
) -> list[int]:
    """Keeps the highest scores of all kernels together, whatever the kernel.

    Args:
        scores: One 1-dimensional array per kernel.
        sparsity: Float in [0, 1], the fraction of all entries to prune.

    Returns:
        The number of entries that each kernel keeps.
    """
    total = sum(len(score) for score in scores)
    pruned = round(sparsity * total)
    if pruned == 0:
        return [len(score) for score in scores]
    merged = np.concatenate(scores)
    merged.partition(pruned - 1)
    threshold = merged[pruned - 1]
    below = [np.count_nonzero(score < threshold) for score in scores]
    ties_left = pruned - sum(below)
    kept = []
    for score, count in zip(scores, below, strict=True):
        ties = min(ties_left, np.count_nonzero(score == threshold))
        ties_left -= ties
        kept.append(len(score) - count - ties)
    return kept


CRITERIA = {"magnitude": magnitude}
ALLOCATIONS = {"global": global_allocation}
GRANULARITIES = ("weight",)
ON_COLLAPSE = ("protect", "raise", "ignore")


def check_rules(allocation, criterion, granularity, on_collapse) -> None:
    """Raises ValueError if one of the selection's arguments is unknown."""
    if not callable(allocation):
        check_choice("allocation", allocation, ALLOCATIONS)
    if not callable(criterion):
        check_choice("criterion", criterion, CRITERIA)
    check_choice("granularity", granularity, GRANULARITIES)
    check_choice("on_collapse", on_collapse, ON_COLLAPSE)


def select(
    kernels: Sequence[np.ndarray],
    sparsity: float,
    *,
    allocation: str | Callable = "global",
    criterion: str | Callable = "magnitude",
    granularity: str = "weight",
    masks: Sequence[np.ndarray] | None = None,
    on_collapse: str = "ignore",
    output_units: Sequence[int] | None = None,
) -> list[np.ndarray]:
    """Selects the weights to keep.

    Args:
        kernels: Arrays in Keras layout, in model order.
        sparsity: Float in [0, 1). The fraction of all entries of all kernels
            together that is pruned after the call.
        allocation: `"global"`, or a callable `(scores, sparsity)` -> number of
            entries that each kernel keeps, with `scores` a list of
            1-dimensional arrays in which what is already pruned is `-inf`.
        criterion: `"magnitude"`, or a callable kernel -> scores of the same
            shape; the highest stay.
        granularity: `"weight"`.
        masks: Boolean arrays, True where a weight is still there. What is
            pruned stays pruned. Defaults to nothing pruned.
        on_collapse: What to do if a kernel would keep fewer weights than it
            has output units: `"ignore"`, `"raise"` a ValueError, or
            `"protect"`: it keeps its best weights up to that number, and the
            other kernels give up as many, so that the total stays exact.
        output_units: The number of output units of each kernel. Defaults to
            the size of its last axis.

    Returns:
        Boolean arrays of the kernels' shapes, True = kept.

    Raises:
        ValueError: If an argument is not as described, a score is not finite,
            no weight would be left, or a kernel collapses and `on_collapse`
            is `"raise"`.

    Example:

    >>> kernels = [np.array([[0.1, -3.0], [0.2, 2.0]]), np.array([[1.0]])]
    >>> [mask.tolist() for mask in keras_bimp.select(kernels, 0.4)]
    [[[False, True], [False, True]], [[True]]]

    Reference:

    - Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love
      Retraining", ICLR 2023, Appendix C.2 (GLOBAL).
    """
    sparsity = check_sparsity("sparsity", sparsity)
    check_rules(allocation, criterion, granularity, on_collapse)
    kernels = [np.asarray(kernel) for kernel in kernels]
    if masks is None:
        masks = [np.ones(kernel.shape, bool) for kernel in kernels]
    if [np.shape(mask) for mask in masks] != [k.shape for k in kernels]:
        raise ValueError(
            "`masks` must hold one array of the kernel's shape per kernel. "
            f"Received: kernels of shapes {[k.shape for k in kernels]}, "
            f"masks of shapes {[np.shape(mask) for mask in masks]}"
        )
    if output_units is None:
        output_units = [k.shape[-1] if k.ndim else 1 for k in kernels]
    new_masks, _ = select_count(
        kernels,
        round(sparsity * sum(kernel.size for kernel in kernels)),
        allocation=allocation,
        criterion=criterion,
        granularity=granularity,
        masks=masks,
        on_collapse=on_collapse,
        output_units=output_units,
    )
    return new_masks


def select_count(
    kernels,
    count: int,
    *,
    allocation,
    criterion,
    granularity,
    masks,
    on_collapse,
    output_units,
) -> tuple[list[np.ndarray], list[int]]:
    """Selects as `select` does, with `count` pruned entries in all.

    Returns:
        The masks, and the indices of the kernels that would have collapsed.
    """
    del granularity  # There is but one.
    allocation = ALLOCATIONS.get(allocation, allocation)
    criterion = CRITERIA.get(criterion, criterion)
    total = sum(kernel.size for kernel in kernels)
    count = max(count, sum(np.count_nonzero(~mask) for mask in masks))
    if total and count == total:
        raise ValueError(
            "The target sparsity must leave at least one of the "
            f"{total:,} weights. Received: one that prunes all of them"
        )
    scores = [
        _scores(kernel, mask, criterion)
        for kernel, mask in zip(kernels, masks, strict=True)
    ]
    kept = allocation(scores, count / total if total else 0.0)
    _check_kept(kept, masks)
    floors = [
        min(units, int(np.count_nonzero(mask)))
        for units, mask in zip(output_units, masks, strict=True)
    ]
    collapsed = [
        i
        for i, (left, floor) in enumerate(zip(kept, floors, strict=True))
        if left < floor
    ]
    if collapsed and on_collapse == "raise":
        raise ValueError(
            "A pruning must leave every kernel at least as many weights as "
            "it has output units, or be told `on_collapse='protect'` or "
            f"'ignore'. Received: a pruning of {count:,} of {total:,} "
            "weights, which leaves "
            + ", ".join(f"kernel {i} {kept[i]} weights" for i in collapsed)
        )
    if collapsed and on_collapse == "protect":
        kept = _protect(scores, kept, floors, allocation)
    new_masks = [
        _keep_highest(score, left).reshape(kernel.shape)
        for score, left, kernel in zip(scores, kept, kernels, strict=True)
    ]
    return new_masks, collapsed


def _check_kept(kept, masks):
    alive = [int(np.count_nonzero(mask)) for mask in masks]
    if len(kept) != len(alive) or not all(
        0 <= left <= most for left, most in zip(kept, alive, strict=True)
    ):
        raise ValueError(
            "`allocation` must return for each kernel a number of weights to "
            "keep, and no more than are still there. "
            f"Received: {list(kept)} where {alive} are there"
        )


def _scores(kernel, mask, criterion):
    scores = np.asarray(criterion(kernel))
    if scores.shape != kernel.shape:
        raise ValueError(
            "`criterion` must return scores of the kernel's shape. "
            f"Received: scores of shape {scores.shape} for a kernel of shape "
            f"{kernel.shape}"
        )
    if not np.isfinite(scores).all():
        index = tuple(map(int, np.argwhere(~np.isfinite(scores))[0]))
        raise ValueError(
            "All scores must be finite. "
            f"Received: {scores[index]} at index {index}"
        )
    return np.where(mask, scores, _PRUNED).ravel()


def _protect(scores, kept, floors, allocation):
    """Raises kernels to their floors; allocates the rest to the others."""
    budget = sum(kept)
    if sum(floors) > budget:
        raise ValueError(
            "With `on_collapse='protect'`, every kernel must be able to keep "
            "one weight per output unit. Received: a sparsity that leaves "
            f"{budget} weights for {sum(floors)} output units. Lower the "
            "sparsity, or pass `on_collapse='ignore'`"
        )
    kept = list(kept)
    free = list(range(len(scores)))
    while low := [i for i in free if kept[i] < floors[i]]:
        for i in low:
            kept[i] = floors[i]
        free = [i for i in free if i not in low]
        left = budget - sum(n for i, n in enumerate(kept) if i not in free)
        size = sum(len(scores[i]) for i in free)
        shares = allocation([scores[i] for i in free], 1 - left / size)
        for i, share in zip(free, shares, strict=True):
            kept[i] = share
    return kept


def _keep_highest(scores, count):
    """Boolean mask of the `count` highest scores; ties: the last ones stay."""
    pruned = len(scores) - count
    if pruned == 0:
        return np.ones(len(scores), bool)
    if count == 0:
        return np.zeros(len(scores), bool)
    threshold = np.partition(scores, pruned - 1)[pruned - 1]
    keep = scores >= threshold
    ties = np.flatnonzero(scores == threshold)
    keep[ties[: pruned - (len(scores) - np.count_nonzero(keep))]] = False
    return keep


def norms(kernels, masks, new_masks) -> tuple[float, float]:
    """L2 norms of all weights that `masks` keep, and of those then pruned.

    Returns:
        The tuple `(norm, norm_of_removed)`, summed in float64.
    """
    before, removed = 0.0, 0.0
    for kernel, mask, new_mask in zip(kernels, masks, new_masks, strict=True):
        squares = np.square(np.asarray(kernel, np.float64))
        before += squares[mask].sum()
        removed += squares[mask & ~new_mask].sum()
    return math.sqrt(before), math.sqrt(removed)
