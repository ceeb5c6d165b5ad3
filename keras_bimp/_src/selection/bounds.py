"""Bounds on what each kernel keeps, and an exact total within them."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Bounds:
    """How many units each kernel must keep at least, and can keep at most.

    Args:
        lower: Integers, one per kernel.
        upper: Integers, one per kernel, not below `lower`.
    """

    lower: tuple[int, ...]
    upper: tuple[int, ...]

    def raised_to(self, floors: Sequence[int]) -> "Bounds":
        """The same bounds, but none below `floors`."""
        return Bounds(
            tuple(map(max, self.lower, floors)),
            tuple(map(max, self.upper, floors)),
        )


def distribute(
    share: Callable[[list[int], int], list[int]], bounds: Bounds, budget: int
) -> list[int]:
    """Shares out a budget among kernels, within bounds.

    What `share` gives is taken where it is within the bounds. Where not, the
    kernels that get too little, or too much if that is more in all, have what
    their bound says, and the rest is shared out anew among the others. If
    `share` is monotone in the budget, that is the share of some other budget,
    cut off at the bounds.

    Args:
        share: Callable (indices of kernels, budget) -> how many units each of
            them keeps, in all `budget`.
        bounds: The bounds.
        budget: Integer, between the sums of the lower and the upper bounds.

    Returns:
        How many units each kernel keeps, in all `budget`.
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
    """Scales counts so that they add up to `total`, exactly.

    Args:
        counts: Integers >= 0.
        total: Integer >= 0.
        sizes: What to take instead of the counts if all of them are 0.

    Returns:
        As many integers. Fractions are rounded so that the largest go up; of
        equal ones those with the higher index.
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
