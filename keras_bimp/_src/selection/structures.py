"""Structures: weights of several kernels that go only together."""

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
    """Which structure each weight of a kernel belongs to.

    Args:
        numbers: Array of integers that broadcasts to the kernel. Weights of
            one number belong to one structure, those of -1 to none.
        computes: Whether these weights compute the structure; if not, they
            read what it has computed.
        owner: The layer that computes it, by name.
        kind: What to call the structures: `"units"`, `"filters"`, `"heads"`.
    """

    numbers: np.ndarray
    computes: bool = True
    owner: str = ""
    kind: str = "units"


@dataclasses.dataclass(frozen=True)
class Pool:
    """Structures that reach into the same kernels, such as heads of a layer.

    Args:
        name: `"heads of attention"`, say.
        kind: What the structures are called.
        members: The numbers of its structures.
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
        parts: For each kernel its `Part`s.
        names: What to call kernels whose parts do not say whose they are.
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
        """The pools, for an allocation to look at.

        A structure scores the mean of what it scores in each part, there its
        norm over that of all structures of its pool: 1 is usual.

        Args:
            scores: Of the weights of each kernel.
            masks: Boolean array per kernel, False where already pruned.
            layouts: Of each kernel.
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
        """Some of the structures only, and the kernels they reach into."""
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
        """Which structures are computed by some weight that is not pruned."""
        alive = np.zeros(self.size, bool)
        for i, part in self.parts:
            if part.computes:
                numbers, over = _aligned(part.numbers, masks[i].ndim)
                here = masks[i].any(over, keepdims=True) & (numbers >= 0)
                alive[numbers[here]] = True
        return alive

    def limits(self, values: Sequence[float | None]) -> list[float | None]:
        """The least that kernels say, for each pool that they compute."""
        found = []
        for pool in self.pools:
            given = [values[i] for i in pool.computing]
            given = [value for value in given if value is not None]
            found.append(min(given, default=None))
        return found

    def expand(self, kept: Sequence[np.ndarray], masks) -> list[np.ndarray]:
        """The new masks, where some structures of each pool stay."""
        # The last is for what belongs to none.
        stay = np.ones(self.size + 1, bool)
        for pool, some in zip(self.pools, kept, strict=True):
            stay[pool.members] = some
        masks = list(masks)
        for i, part in self.parts:
            masks[i] = masks[i] & stay[part.numbers]
        return masks

    def _sums(self, scores, mask, part, norm):
        """For each structure the sum of what its weights score."""
        if not scores.measures:
            # A norm of random numbers would tell how large a structure is.
            numbers = np.broadcast_to(part.numbers, mask.shape)
            names, first = np.unique(numbers, return_index=True)
            sums = np.zeros(self.size + 1)
            sums[names] = scores.array().reshape(-1)[first]
            return sums
        values = amounts(scores, mask, "unit")
        if norm == "l2":
            # Squares of what is at most 1 neither overflow nor vanish.
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
            # What computes goes first.
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
    """Numbers with as many axes as a kernel, and those they are the same on."""
    numbers = numbers.reshape((1,) * (rank - numbers.ndim) + numbers.shape)
    return numbers, tuple(i for i, n in enumerate(numbers.shape) if n == 1)


def _places(numbers, found):
    """Numbers as positions in `found`; -1 where they are negative."""
    at = np.searchsorted(found, numbers)
    return np.where(numbers >= 0, at, -1)


def _ratios(sums, alive):
    mean = sums[alive].mean() if alive.any() else 0.0
    return sums / mean if mean else np.zeros_like(sums)
