"""Interfaces that all allocations share."""

import dataclasses

import numpy as np

from keras_bimp._src.kernel_layout import Layout
from keras_bimp._src.selection.bounds import Bounds
from keras_bimp._src.selection.scores import Scores


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A kernel and the scores of its units, as an allocation sees it.

    Args:
        scores: The scores of the units.
        shape: The shape of the kernel.
        layout: The kernel's `Layout`.
        groups: One number per unit. Units with the same number, even in
            different kernels, must be pruned together. `None` if unknown.

    Example:

    >>> def first_alone(candidates, sparsity):
    ...     return [candidates[0].units, *(0 for _ in candidates[1:])]
    >>> shares = keras_bimp.selection.Shares(first_alone)
    >>> kernels = [np.ones((1, 2)), np.ones((1, 2))]
    >>> masks = keras_bimp.select(
    ...     kernels, 0.5, allocation=shares, on_collapse="ignore"
    ... )
    >>> [int(mask.sum()) for mask in masks]
    [2, 0]
    """

    scores: Scores
    shape: tuple[int, ...]
    layout: Layout
    groups: np.ndarray | None = None

    @property
    def units(self) -> int:
        return self.scores.size


class Allotment:
    """An allocation applied to some kernels at some sparsity.

    Attributes:
        budget: How many units stay in total.

    Example:

    >>> class First(keras_bimp.selection.Allotment):
    ...     budget = 2
    ...
    ...     def keep(self, bounds, budget):
    ...         return [np.array([True, True]), np.array([False, False])]
    >>> class FirstAlone(keras_bimp.selection.Allocation):
    ...     def allot(self, candidates, sparsity):
    ...         return First()
    >>> kernels = [np.ones(2), np.ones(2)]
    >>> keras_bimp.select(
    ...     kernels, 0.5, allocation=FirstAlone(), on_collapse="ignore"
    ... )
    [array([ True,  True]), array([False, False])]
    """

    budget: int

    def keep(self, bounds: Bounds, budget: int) -> list[np.ndarray]:
        """Return which units of each kernel stay, `budget` in total."""
        raise NotImplementedError


class Allocation:
    """Base class for allocations.

    Attributes:
        needs_arrays: Whether it reads the scores of whole kernels, not just
            their number.
        needs_groups: Whether it must know which units are pruned together.
        name: The name of the allocation, or `None`.

    Example:

    >>> def half_of_each(scores, sparsity):
    ...     return [kernel.size // 2 for kernel in scores]
    >>> kernels = [np.array([[1.0], [2.0]]), np.array([[10.0], [30.0]])]
    >>> masks = keras_bimp.select(kernels, 0.5, allocation=half_of_each)
    >>> [mask.tolist() for mask in masks]
    [[[False], [True]], [[False], [True]]]
    """

    needs_arrays = True
    needs_groups = False
    name = None

    def allot(self, candidates: list[Candidate], sparsity: float) -> Allotment:
        """Return the `Allotment` for a sparsity over all units."""
        raise NotImplementedError

    def __str__(self):
        return f"allocation {self.name or 'by a function'}"
