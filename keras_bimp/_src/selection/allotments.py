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
    """

    needs_arrays = True
    needs_groups = False
    name = None

    def allot(self, candidates: list[Candidate], sparsity: float) -> Allotment:
        """Return the `Allotment` for a sparsity over all units."""
        raise NotImplementedError

    def __str__(self):
        return f"allocation {self.name or 'by a function'}"
