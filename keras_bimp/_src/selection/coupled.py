"""Allocation that prunes filters of the same channel together."""

import numpy as np

from keras_bimp._src.selection.allotments import Allocation
from keras_bimp._src.selection.allotments import Allotment
from keras_bimp._src.selection.bounds import Bounds
from keras_bimp._src.selection.scores import PRUNED


class Coupled(Allocation):
    """Uniform allocation that prunes filters of the same channel together.

    Along the residual stream of a ResNet, the filters that add to one channel
    lie in many kernels. Pruned independently, they leave hardly any channel
    unused; pruned together, they do. The score of such a group is the sum of
    its filters' squared scores, each divided by the mean of its kernel. Among
    the groups that span the same kernels, the same share is pruned, lowest
    scores first. So every kernel gets the target sparsity, up to rounding.

    Example:

    >>> kernels = [np.array([[1.0, 4.0]]), np.array([[2.0, 3.0]])]
    >>> masks = keras_bimp.select(
    ...     kernels,
    ...     0.5,
    ...     allocation="coupled",
    ...     granularity="unit",
    ...     groups=[np.array([0, 1]), np.array([0, 1])],
    ... )
    >>> [mask.tolist() for mask in masks]
    [[[False, True]], [[False, True]]]
    """

    needs_groups = True

    def allot(self, candidates, sparsity):
        return _Groups(candidates, sparsity)


class _Groups(Allotment):
    def __init__(self, candidates, sparsity):
        names, numbers = np.unique(
            np.concatenate([c.groups for c in candidates]), return_inverse=True
        )
        ends = np.cumsum([len(c.groups) for c in candidates])[:-1]
        self._of = np.split(numbers.reshape(-1), ends)
        self._alive = [c.scores.array() > PRUNED for c in candidates]
        self._scores = np.full(len(names), PRUNED)
        for c, of, alive in zip(candidates, self._of, self._alive, strict=True):
            squares = c.scores.array()[alive].astype(float) ** 2
            here = of[alive]
            self._scores[here] = np.maximum(self._scores[here], 0.0)
            mean = squares.mean() if squares.any() else 1.0
            np.add.at(self._scores, here, squares / mean)
        self._kept = np.zeros(len(names), bool)
        for groups in self._alike(len(names)):
            left = len(groups) - round(sparsity * len(groups))
            # A stable sort prunes the lower index first.
            order = np.argsort(self._scores[groups], kind="stable")
            self._kept[groups[order[len(groups) - left :]]] = True
        self.budget = int(sum(kept.sum() for kept in self._units(self._kept)))

    def keep(self, bounds: Bounds, budget):
        kept = self._kept.copy()
        for i, least in enumerate(bounds.lower):
            best = self._of[i][self._alive[i]]
            best = best[np.argsort(-self._scores[best], kind="stable")]
            for group in best:
                if self._units(kept)[i].sum() >= least:
                    break
                kept[group] = True
        return self._units(kept)

    def _alike(self, count):
        """Yield sets of groups that span the same kernels."""
        inside = np.zeros((count, len(self._of)), bool)
        for i, of in enumerate(self._of):
            inside[of, i] = True
        _, kinds = np.unique(inside, axis=0, return_inverse=True)
        kinds = kinds.reshape(-1)
        for kind in range(kinds.max(initial=-1) + 1):
            yield np.flatnonzero(kinds == kind)

    def _units(self, kept):
        return [
            kept[of] & alive
            for of, alive in zip(self._of, self._alive, strict=True)
        ]
