"""Allocations: how many units each kernel keeps."""

import math
import numbers
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from keras_bimp._src.checks import check_choice
from keras_bimp._src.selection.allotments import Allocation
from keras_bimp._src.selection.allotments import Allotment
from keras_bimp._src.selection.allotments import Candidate
from keras_bimp._src.selection.bounds import distribute
from keras_bimp._src.selection.bounds import scale
from keras_bimp._src.selection.coupled import Coupled
from keras_bimp._src.selection.scores import PRUNED
from keras_bimp._src.selection.scores import Scores
from keras_bimp._src.selection.shards import counts as kept_counts
from keras_bimp._src.selection.shards import keep_highest


class Ranking(Allocation):
    """Allocation that keeps the highest scores across all kernels.

    Args:
        rescale: Callable scores -> scores that makes the scores of different
            kernels comparable. It takes an array of one kernel's unit scores,
            `-inf` where pruned, and returns an array of the same shape. It
            must not reverse the order of two scores. By default scores are
            not rescaled: global pruning.
        needs_amounts: Whether `rescale` requires scores >= 0.

    Example:

    >>> kernels = [np.array([[1.0], [2.0]]), np.array([[10.0], [30.0]])]
    >>> share = keras_bimp.selection.Ranking(lambda s: s / s.max())
    >>> masks = keras_bimp.select(kernels, 0.5, allocation=share)
    >>> [mask.tolist() for mask in masks]
    [[[False], [True]], [[False], [True]]]
    """

    def __init__(
        self, rescale: Callable | None = None, needs_amounts: bool = False
    ):
        self.rescale = rescale
        self.needs_amounts = needs_amounts
        self.needs_arrays = rescale is not None

    def allot(self, candidates, sparsity):
        return _Ranked(self, candidates, sparsity)

    def comparable(self, candidate: Candidate) -> Scores:
        """Return scores that are comparable across kernels."""
        if self.rescale is None:
            return candidate.scores
        before = candidate.scores.array()
        alive = before > PRUNED
        if self.needs_amounts and (before[alive] < 0).any():
            raise ValueError(
                "`criterion` must return scores >= 0 for this allocation. "
                f"Received: {before[alive].min()}"
            )
        after = np.asarray(self._apply(before, candidate))
        if after.shape != before.shape:
            raise ValueError(
                "`rescale` must return scores of the same shape. "
                f"Received: shape {after.shape} for {before.shape}"
            )
        after = np.where(alive, after, np.zeros((), after.dtype))
        return Scores(after, name=candidate.scores.name).where(alive)

    def _apply(self, scores, candidate):
        return self.rescale(scores)


class _Ranked(Allotment):
    def __init__(self, ranking, candidates, sparsity):
        total = sum(c.units for c in candidates)
        self.budget = total - round(sparsity * total)
        self._scores = [c.scores for c in candidates]
        self._ranked = [ranking.comparable(c) for c in candidates]
        self._same = self._ranked == self._scores

    def keep(self, bounds, budget):
        last = []

        def share(free, left):
            last.clear()  # Do not keep two sets of masks in memory.
            masks = keep_highest([self._ranked[i] for i in free], left)
            last[:] = masks, kept_counts(masks)
            return last[1]

        kept = distribute(share, bounds, budget)
        if self._same and last[1] == kept:
            return last[0]
        last.clear()
        return _highest_of_each(self._scores, kept)


class Shares(Allocation):
    """Allocation whose unit counts come from a function.

    Args:
        function: Callable (list of `Candidate`, sparsity) -> number of units
            to keep, one per kernel. Where bounds change a count, the other
            counts are scaled to compensate.
        needs_arrays: Whether the function reads the scores.

    Example:

    >>> def one_more(candidates, sparsity):
    ...     return [1, *(c.units - 1 for c in candidates[1:])]
    >>> shares = keras_bimp.selection.Shares(one_more)
    >>> kernels = [np.ones((4, 1)), np.ones((4, 1))]
    >>> masks = keras_bimp.select(kernels, 0.5, allocation=shares)
    >>> [int(mask.sum()) for mask in masks]
    [1, 3]
    """

    def __init__(self, function: Callable, needs_arrays: bool = True):
        self.function = function
        self.needs_arrays = needs_arrays

    def allot(self, candidates, sparsity):
        counts = self.counts(candidates, sparsity)
        sizes = [c.units for c in candidates]
        if (
            np.shape(counts) != (len(sizes),)
            or not all(isinstance(n, numbers.Real) for n in counts)
            or not all(
                0 <= n <= size and n == int(n)
                for n, size in zip(counts, sizes, strict=True)
            )
        ):
            raise ValueError(
                "`allocation` must return the number of units to keep for "
                "each kernel, and no more than the kernel has. "
                f"Received: {counts} for kernels of {sizes} units"
            )
        return _Shared([int(n) for n in counts], candidates)

    def counts(self, candidates, sparsity):
        """Return how many units each kernel keeps."""
        return self.function(candidates, sparsity)


class _Shared(Allotment):
    def __init__(self, counts, candidates):
        self.budget = sum(counts)
        self._wanted = counts
        self._scores = [c.scores for c in candidates]

    def keep(self, bounds, budget):
        def share(free, left):
            return scale(
                [self._wanted[i] for i in free],
                left,
                [self._scores[i].size for i in free],
            )

        kept = distribute(share, bounds, budget)
        return _highest_of_each(self._scores, kept)


class _Function(Shares):
    """Wrapper for a user's callable (scores, sparsity) -> counts."""

    def counts(self, candidates, sparsity):
        return self.function([c.scores.array() for c in candidates], sparsity)


def uniform(candidates: Sequence[Candidate], sparsity: float) -> list[int]:
    """Give every kernel the same sparsity.

    Reference:

    - Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love
      Retraining", ICLR 2023, Appendix C.2 (UNIFORM).
    """
    return [c.units - round(sparsity * c.units) for c in candidates]


def uniform_plus(candidates: Sequence[Candidate], sparsity: float) -> list[int]:
    """Prune uniformly, but spare the first convolution and last dense layer.

    The first convolution stays dense, and the last dense layer loses at most
    80%. All other kernels lose the same share of their remaining weights, so
    that the total is `sparsity`. First and last refer to the pruned kernels;
    a dense layer is one whose kernel has two axes. Each kernel's count is
    rounded. Pruning again to the same sparsity changes nothing: it does not
    compensate for the rounding.

    Reference:

    - Gale, Elsen, Hooker, "The State of Sparsity in Deep Neural Networks",
      2019, Section 5.2.
    """
    total = sum(c.units for c in candidates)
    alive = [c.scores.alive for c in candidates]
    pruned = round(sparsity * total)
    first = next(
        (i for i, c in enumerate(candidates) if c.layout.convolution), None
    )
    dense = [i for i, c in enumerate(candidates) if len(c.shape) == 2]
    others = [i for i in range(len(candidates)) if i != first]
    # How much the other kernels still have to lose.
    losing = pruned - (total - sum(alive))
    kept = list(alive)
    if sum(alive) < total and 2 * losing <= len(others):
        return kept  # Within the rounding error of the previous pruning.
    if dense and pruned > 0.8 * sum(candidates[i].units for i in others):
        last = dense[-1]
        spared = 0.2 * candidates[last].units
        going = min(max(0.0, alive[last] - spared), max(0.0, losing))
        losing -= going
        kept[last] -= round(going)
        others.remove(last)
    left = sum(alive[i] for i in others)
    if losing > left:
        raise ValueError(
            "allocation='uniform_plus' must be able to spare the first "
            "convolution and a fifth of the last dense layer. "
            f"Received: a sparsity of {sparsity:g}, which is too high"
        )
    rate = max(0.0, losing / left) if left else 0.0
    for i in others:
        kept[i] -= round(rate * alive[i])
    return kept


def erk(candidates: Sequence[Candidate], sparsity: float) -> list[int]:
    """Erdos-Renyi-Kernel: keep small and narrow kernels denser.

    The density of a kernel is proportional to `sum(shape) / prod(shape)`,
    capped at 1.

    Reference:

    - Evci, Gale, Menick, Castro, Elsen, "Rigging the Lottery: Making All
      Tickets Winners", ICML 2020, Section 3 (1).
    """
    raw = [sum(c.shape) / max(math.prod(c.shape), 1) for c in candidates]
    sizes = [c.units for c in candidates]
    dense = set()
    while len(dense) < len(candidates):
        others = [i for i in range(len(candidates)) if i not in dense]
        left = (1 - sparsity) * sum(sizes) - sum(sizes[i] for i in dense)
        weighted = sum(raw[i] * sizes[i] for i in others)
        factor = left / weighted if weighted else 0.0
        widest = max(others, key=lambda i: raw[i])
        if factor * raw[widest] <= 1:
            break
        dense.add(widest)
    return [
        size if i in dense else round(factor * raw[i] * size)
        for i, size in enumerate(sizes)
    ]


def lamp(scores: np.ndarray) -> np.ndarray:
    """Return layer-adaptive magnitudes, which do not depend on kernel scale.

    ```python
    lamp[u] = w[u] ** 2 / sum(w[v] ** 2 for v if abs(w[v]) >= abs(w[u]))
    ```

    Args:
        scores: Magnitudes of a kernel, `-inf` where pruned.

    Returns:
        Array of the same shape, in [0, 1].

    Reference:

    - Lee, Park, Mo, Ahn, Shin, "Layer-adaptive sparsity for the
      Magnitude-based Pruning", ICLR 2021, Section 3.
    """
    squares = _amounts(scores) ** 2
    ordered = np.sort(squares, axis=None)
    not_below = np.cumsum(ordered[::-1])[::-1]
    at = np.searchsorted(ordered, squares)
    sums = not_below[np.minimum(at, len(ordered) - 1)] if scores.size else at
    return np.divide(squares, sums, out=np.zeros_like(squares), where=sums > 0)


def relative(scores: np.ndarray, output_units: int) -> np.ndarray:
    """Divide magnitudes by the kernel's mean norm per output unit.

    This is not in the paper. Batch normalization makes the scale of a kernel
    arbitrary, yet plain global pruning depends on it. Here a weight counts by
    its share of the input sum of its unit.

    ```python
    relative = abs(w) / sqrt(sum(w ** 2) / output_units)
    ```

    Args:
        scores: Magnitudes of a kernel, `-inf` where pruned.
        output_units: How many output units the kernel feeds.

    Returns:
        Array of the same shape.
    """
    amounts = _amounts(scores)
    norm = np.linalg.norm(amounts) / math.sqrt(max(output_units, 1))
    return amounts / norm if norm else amounts


def _amounts(scores):
    """Divide scores by the largest (0 where pruned), so squares are finite."""
    amounts = np.where(scores > PRUNED, scores, 0.0).astype(np.float64)
    return amounts / (amounts.max(initial=0.0) or 1.0)


class Relative(Ranking):
    """Global ranking by `relative` magnitudes."""

    def __init__(self):
        super().__init__(relative, needs_amounts=True)

    def _apply(self, scores, candidate):
        units = candidate.layout.output_units(candidate.shape)
        return self.rescale(scores, units)


ALLOCATIONS = {
    "global": Ranking(),
    "uniform": Shares(uniform, needs_arrays=False),
    "uniform_plus": Shares(uniform_plus, needs_arrays=False),
    "erk": Shares(erk, needs_arrays=False),
    "lamp": Ranking(lamp, needs_amounts=True),
    "relative": Relative(),
    "coupled": Coupled(),
}
for _name, _allocation in ALLOCATIONS.items():
    _allocation.name = _name


def as_allocation(allocation: str | Callable | Allocation) -> Allocation:
    """Look up an allocation, like `keras.losses.get`."""
    if isinstance(allocation, Allocation):
        return allocation
    if isinstance(allocation, type) and issubclass(allocation, Ranking):
        return allocation()
    if callable(allocation):
        return _Function(allocation)
    check_choice("allocation", allocation, ALLOCATIONS)
    return ALLOCATIONS[allocation]


def _highest_of_each(scores, kept):
    return [
        keep_highest([s], left)[0] for s, left in zip(scores, kept, strict=True)
    ]
