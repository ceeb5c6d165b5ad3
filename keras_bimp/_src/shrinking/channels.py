"""Channels: what is known about each channel of each tensor in a graph."""

import dataclasses

import numpy as np


class Classes:
    """Channels that stay or go together: a union-find over their numbers."""

    def __init__(self):
        self._parents = []
        self._kept = []
        self._whys = []

    def new(self, size: int) -> np.ndarray:
        """Returns the numbers of `size` new channels."""
        start = len(self._parents)
        self._parents.extend(range(start, start + size))
        return np.arange(start, start + size)

    def unite(self, some: np.ndarray, others: np.ndarray) -> None:
        """Makes pairs of channels stay or go together."""
        for a, b in zip(some.tolist(), others.tolist(), strict=True):
            a, b = self._root(a), self._root(b)
            # The lower number represents both.
            self._parents[max(a, b)] = min(a, b)

    def keep_whole(self, numbers: np.ndarray, why: str) -> None:
        """Makes channels stay whatever their weights, and records why."""
        self._kept.append(numbers)
        self._whys.append(why)

    @property
    def kept_whole(self) -> np.ndarray:
        """Returns the channels that stay whatever their weights."""
        return np.concatenate([np.zeros(0, int), *self._kept])

    def reasons(self) -> dict[int, str]:
        """Returns the number of each class that stays -> why."""
        found = {}
        for numbers, why in zip(self._kept, self._whys, strict=True):
            for number in numbers.tolist():
                found.setdefault(self._root(number), why)
        return found

    def roots(self) -> np.ndarray:
        """Returns for each channel the representative of its class."""
        return np.array([self._root(i) for i in range(len(self._parents))], int)

    def _root(self, number):
        parents = self._parents
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number


@dataclasses.dataclass
class Channels:
    """The entries along the last axis of one tensor.

    Args:
        numbers: The number of each channel in `Classes`. Several channels may
            have the same number.
        constants: The value of each channel if it is the same everywhere, for
            every input; NaN if it is not known to be constant.
        read: Whether a channel reaches an output of the model.
    """

    numbers: np.ndarray
    constants: np.ndarray = None
    read: np.ndarray = None

    def __post_init__(self):
        if self.constants is None:
            self.constants = np.full(self.size, np.nan)
        if self.read is None:
            self.read = np.zeros(self.size, bool)

    @property
    def size(self) -> int:
        return len(self.numbers)

    @property
    def known(self) -> np.ndarray:
        """Whether each channel is constant."""
        return ~np.isnan(self.constants)

    @property
    def values(self) -> np.ndarray:
        """The constants, and 0 for channels that are not constant."""
        return np.where(self.known, self.constants, 0.0)

    @property
    def live(self) -> np.ndarray:
        """Whether each channel must be computed."""
        return self.read & ~self.known


class Kept:
    """The set of channels that stay. It only grows.

    Args:
        classes: The `Classes`, which must not be united any more.
        tensors: The `Channels` of the model.
    """

    def __init__(self, classes: Classes, tensors: list[Channels]):
        self._roots = classes.roots()
        self._stay = np.zeros(len(self._roots), bool)
        self._sizes = np.zeros(len(self._roots), int)
        self._keep(classes.kept_whole)
        for tensor in tensors:
            np.add.at(self._sizes, self._roots[tensor.numbers], 1)
            self._keep(tensor.numbers[tensor.live])

    def of(self, tensor: Channels) -> np.ndarray:
        """Returns a boolean array: which channels of a tensor stay."""
        return self._stay[self._roots[tensor.numbers]]

    def keep(self, tensor: Channels, where: np.ndarray) -> bool:
        """Keeps channels at the index `where`; returns whether it grew."""
        before = self._stay.sum()
        self._keep(tensor.numbers[where])
        return self._stay.sum() > before

    def keep_at_least(self, tensor: Channels, least: int, among=None) -> bool:
        """Keeps more channels of `among` until `least` of them stay.

        Prefers channels that bring along the fewest others.
        """
        among = np.arange(tensor.size) if among is None else among
        order = np.argsort(
            self._sizes[self._roots[tensor.numbers[among]]], kind="stable"
        )
        grew = False
        for i in among[order]:
            if self.of(tensor)[among].sum() >= min(least, len(among)):
                break
            grew |= self.keep(tensor, [i])
        return grew

    def keep_most_wanted(self, needs: list[np.ndarray]) -> None:
        """Keeps the channel that is in most of these arrays of numbers."""
        wanted = np.concatenate([np.unique(self._roots[n]) for n in needs])
        roots, times = np.unique(wanted, return_counts=True)
        self._stay[roots[times.argmax()]] = True

    def _keep(self, numbers):
        self._stay[self._roots[numbers]] = True
