"""Structures: weights of several kernels that are pruned together."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_bimp._src.kernel_layout import Layout
from keras_bimp._src.selection.allotments import Candidate
from keras_bimp._src.selection.scores import Scores
from keras_bimp._src.selection.scores import amounts


@dataclasses.dataclass(frozen=True)
class Part:
    """Maps the weights of a kernel to structures.

    Args:
        numbers: Array of integers that broadcasts to the kernel. Weights with
            the same number belong to one structure; -1 means none.
        computes: Whether these weights compute the structure. Otherwise they
            read it.
        owner: Name of the layer that computes it.
        kind: Name of the structures: `"units"`, `"filters"` or `"heads"`.
    """

    numbers: np.ndarray
    computes: bool = True
    owner: str = ""
    kind: str = "units"


@dataclasses.dataclass(frozen=True)
class Pool:
    """Structures that span the same kernels, such as the heads of a layer.

    Args:
        name: For example, `"heads of attention"`.
        kind: Name of the structures.
        members: The numbers of the structures.
        parts: Pairs of a kernel's index and a `Part`.
    """

    name: str
    kind: str
    members: np.ndarray
    parts: tuple[tuple[int, Part], ...]

    @property
    def computing(self) -> list[int]:
        """The kernels that compute the structures."""
        return list(dict.fromkeys(i for i, part in self.parts if part.computes))


class Structures:
    """All structures of some kernels.

    Args:
        parts: The `Part`s of each kernel.
        names: Names of the kernels, for parts without an owner.
    """

    def __init__(
        self, parts: Sequence[Sequence[Part]], names: Sequence[str] = ()
    ):
        flat = [(i, part) for i, some in enumerate(parts) for part in some]
        found = np.unique(
            np.concatenate(
                [np.zeros(0, int), *(part.numbers.ravel() for _, part in flat)]
            )
        )
        found = found[found >= 0]
        self.parts = [
            (i, dataclasses.replace(part, numbers=_places(part.numbers, found)))
            for i, part in flat
        ]
        self.size = len(found)
        self.pools = self._pools(names)

    def candidates(
        self, scores: Sequence[Scores], masks, layouts, norm: str
    ) -> list[Candidate]:
        """Return the pools as candidates for an allocation.

        The score of a structure in one part is its norm divided by the mean
        norm in its pool. Its total score is the mean over its parts.

        Args:
            scores: Weight scores of each kernel.
            masks: Boolean array per kernel, False where already pruned.
            layouts: Layout of each kernel.
            norm: `"l2"` or `"l1"`.
        """
        alive = self.alive(masks)
        sums = {
            id(part): self._sums(scores[i], masks[i], part, norm)
            for i, part in self.parts
        }
        found = []
        for pool in self.pools:
            here = alive[pool.members]
            parts = [sums[id(part)][pool.members] for _, part in pool.parts]
            first, _ = pool.parts[0]
            values = parts[0]
            if scores[first].measures:
                ratios = np.mean([_ratios(part, here) for part in parts], 0)
                values = np.sqrt(ratios) if norm == "l2" else ratios
            size = sum(
                masks[i].size // max(len(np.unique(part.numbers)), 1)
                for i, part in pool.parts
            )
            found.append(
                Candidate(
                    Scores(values, name=pool.name).where(here),
                    (size, len(values)),
                    Layout((0,), (1,), layouts[first].convolution),
                    pool.members,
                )
            )
        return found

    def among(
        self, members: np.ndarray, kernels: Sequence[int]
    ) -> "Structures":
        """Return only some structures, in the kernels that they span."""
        return Structures(
            [
                [
                    dataclasses.replace(
                        part,
                        numbers=np.where(
                            np.isin(part.numbers, members), part.numbers, -1
                        ),
                    )
                    for i, part in self.parts
                    if i == kernel
                ]
                for kernel in kernels
            ]
        )

    def alive(self, masks: Sequence[np.ndarray]) -> np.ndarray:
        """Return which structures still have a weight that computes them."""
        alive = np.zeros(self.size, bool)
        for i, part in self.parts:
            if part.computes:
                numbers, over = _aligned(part.numbers, masks[i].ndim)
                here = masks[i].any(over, keepdims=True) & (numbers >= 0)
                alive[numbers[here]] = True
        return alive

    def limits(self, values: Sequence[float | None]) -> list[float | None]:
        """Return the lowest limit of the computing kernels of each pool."""
        found = []
        for pool in self.pools:
            given = [values[i] for i in pool.computing]
            given = [value for value in given if value is not None]
            found.append(min(given, default=None))
        return found

    def expand(self, kept: Sequence[np.ndarray], masks) -> list[np.ndarray]:
        """Return the new masks if some structures of each pool stay."""
        # The last entry is for weights without a structure.
        stay = np.ones(self.size + 1, bool)
        for pool, some in zip(self.pools, kept, strict=True):
            stay[pool.members] = some
        masks = list(masks)
        for i, part in self.parts:
            masks[i] = masks[i] & stay[part.numbers]
        return masks

    def _sums(self, scores, mask, part, norm):
        """Sum the scores of the weights of each structure."""
        if not scores.measures:
            # A norm of random numbers would depend on the structure size.
            numbers = np.broadcast_to(part.numbers, mask.shape)
            names, first = np.unique(numbers, return_index=True)
            sums = np.zeros(self.size + 1)
            sums[names] = scores.array().reshape(-1)[first]
            return sums
        values = amounts(scores, mask, "unit")
        if norm == "l2":
            # Squares of values <= 1 neither overflow nor vanish.
            values = np.square(values / (values.max(initial=0.0) or 1.0))
        numbers, over = _aligned(part.numbers, values.ndim)
        values = values.sum(over, keepdims=True)
        return np.bincount(
            numbers.ravel() % (self.size + 1), values.ravel(), self.size + 1
        )

    def _pools(self, names):
        reach = [[] for _ in range(self.size)]
        for at, (_, part) in enumerate(self.parts):
            for number in np.unique(part.numbers).tolist():
                if number >= 0:
                    reach[number].append(at)
        alike = {}
        for number, parts in enumerate(reach):
            alike.setdefault(tuple(parts), []).append(number)
        pools, seen = [], collections.Counter()
        for parts, members in alike.items():
            # Computing parts come first.
            reached = sorted(
                [self.parts[at] for at in parts],
                key=lambda each: not each[1].computes,
            )
            i, part = reached[0]
            owner = part.owner or (names[i] if names else f"kernel {i}")
            name = f"{part.kind} of {owner}"
            seen[name] += 1
            if seen[name] > 1:
                name = f"{name} ({seen[name]})"
            pools.append(
                Pool(name, part.kind, np.array(members), tuple(reached))
            )
        return pools


def _aligned(numbers, rank):
    """Add axes to match a kernel; also return the axes to sum over."""
    numbers = numbers.reshape((1,) * (rank - numbers.ndim) + numbers.shape)
    return numbers, tuple(i for i, n in enumerate(numbers.shape) if n == 1)


def _places(numbers, found):
    """Return positions of numbers in `found`; -1 for negative numbers."""
    at = np.searchsorted(found, numbers)
    return np.where(numbers >= 0, at, -1)


def _ratios(sums, alive):
    mean = sums[alive].mean() if alive.any() else 0.0
    return sums / mean if mean else np.zeros_like(sums)
