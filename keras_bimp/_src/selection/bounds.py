"""Bounds on the units of each kernel, and exact totals within them."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Minimum and maximum number of units that each kernel keeps.

    Args:
        lower: Integers, one per kernel.
        upper: Integers, one per kernel, each >= `lower`.
    """

    lower: tuple[int, ...]
    upper: tuple[int, ...]

    def raised_to(self, floors: Sequence[int]) -> "Bounds":
        """Return these bounds, raised to at least `floors`."""
        return Bounds(
            tuple(map(max, self.lower, floors)),
            tuple(map(max, self.upper, floors)),
        )


def distribute(
    share: Callable[[list[int], int], list[int]], bounds: Bounds, budget: int
) -> list[int]:
    """Distribute a budget among kernels, within bounds.

    Shares within the bounds are used as they are. Otherwise, either the
    kernels below their lower bound or those above their upper bound are fixed
    at the bound, whichever deviate more in total. The rest is distributed
    again among the other kernels. If `share` is monotone in the budget, the
    result is a share of some other budget, clipped to the bounds.

    Args:
        share: Callable (indices of kernels, budget) -> number of units that
            each of them keeps, `budget` in total.
        bounds: The bounds.
        budget: Integer, between the sums of the lower and the upper bounds.

    Returns:
        The number of units that each kernel keeps, `budget` in total.
    """
    kept = [0] * len(bounds.lower)
    free = list(range(len(kept)))
    while free:
        fixed = sum(n for i, n in enumerate(kept) if i not in free)
        for i, n in zip(free, share(free, budget - fixed), strict=True):
            kept[i] = n
        low = [i for i in free if kept[i] < bounds.lower[i]]
        high = [i for i in free if kept[i] > bounds.upper[i]]
        lacking = sum(bounds.lower[i] - kept[i] for i in low)
        too_much = sum(kept[i] - bounds.upper[i] for i in high)
        if not low and not high:
            break
        fixing, to = (
            (low, bounds.lower) if lacking >= too_much else (high, bounds.upper)
        )
        for i in fixing:
            kept[i] = to[i]
        free = [i for i in free if i not in fixing]
    return kept


def scale(counts: Sequence[int], total: int, sizes: Sequence[int]) -> list[int]:
    """Scale counts so that they sum to `total` exactly.

    Args:
        counts: Integers >= 0.
        total: Integer >= 0.
        sizes: Used instead of `counts` if all counts are 0.

    Returns:
        A list of integers. The largest fractions are rounded up; among equal
        fractions, the higher index is.
    """
    if sum(counts) == total:
        return list(counts)
    weights = counts if sum(counts) else sizes
    exact = [total * w / sum(weights) for w in weights]
    scaled = [int(e) for e in exact]
    by_remainder = sorted(
        range(len(exact)), key=lambda i: (exact[i] - scaled[i], i)
    )
    for i in by_remainder[len(exact) - (total - sum(scaled)) :]:
        scaled[i] += 1
    return scaled
