"""What every allocation is, looks at and returns."""

import dataclasses

import numpy as np

from keras_bimp._src.kernel_layout import Layout
from keras_bimp._src.selection.bounds import Bounds
from keras_bimp._src.selection.scores import Scores


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A kernel and the scores of its units, for an allocation to look at.

    Args:
        scores: The scores of its units.
        shape: The shape of the kernel.
        layout: What its axes mean.
        groups: One number per unit; units of one number, in whatever kernels,
            can only go together. `None` if that is not known.

    Example:

    >>> def first_alone(candidates, sparsity):
    ...     return [candidates[0].units, *(0 for _ in candidates[1:])]
    >>> shares = keras_bimp.selection.Shares(first_alone)
    >>> kernels = [np.ones((1, 2)), np.ones((1, 2))]
    >>> masks = keras_bimp.select(kernels, 0.5, allocation=shares)
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
    """An allocation carried out on some kernels for some sparsity.

    Attributes:
        budget: How many units stay in all.

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
    >>> keras_bimp.select(kernels, 0.5, allocation=FirstAlone())
    [array([ True,  True]), array([False, False])]
    """

    budget: int

    def keep(self, bounds: Bounds, budget: int) -> list[np.ndarray]:
        """Returns which units of each kernel stay, `budget` in all."""
        raise NotImplementedError


class Allocation:
    """Base class of the allocations.

    Attributes:
        needs_arrays: Whether it looks at the scores of whole kernels, and not
            only at how many they are.
        needs_groups: Whether it must know which units go together.
        name: What it is called, or `None`.

    Example:

    >>> def half_of_each(scores, sparsity):
    ...     return [kernel.size // 2 for kernel in scores]
    >>> kernels = [np.array([[1.0, 2.0]]), np.array([[10.0, 30.0]])]
    >>> masks = keras_bimp.select(kernels, 0.5, allocation=half_of_each)
    >>> [mask.tolist() for mask in masks]
    [[[False, True]], [[False, True]]]
    """

    needs_arrays = True
    needs_groups = False
    name = None

    def allot(self, candidates: list[Candidate], sparsity: float) -> Allotment:
        """Returns the `Allotment` of a sparsity of all units together."""
        raise NotImplementedError

    def __str__(self):
        return f"allocation {self.name or 'by a function'}"
