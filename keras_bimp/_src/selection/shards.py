"""The exact choice among kernels that are spread over several processes.

No process or device ever holds a whole kernel. The processes sum histograms of
their scores, 16 bits at a time, until all know the threshold score. Then each
masks its own parts.
"""

import hashlib
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from keras_bimp._src import processes
from keras_bimp._src.selection import scores as whole
from keras_bimp._src.selection.scores import PRUNED
from keras_bimp._src.selection.scores import Scores

_BITS = 16  # Bits of a key per histogram.
_CHUNK = 1 << 16  # Entries.


class Shards:
    """An array of which this process holds some parts.

    Args:
        shape: The shape of the whole array.
        sharding: The `jax.sharding.Sharding` of the array.
        parts: Mapping from the bounds of a part, a tuple of (begin, end)
            pairs, to the part, an array.
        owned: The parts that count in this process only.
    """

    def __init__(self, shape, sharding, parts, owned):
        self.shape = tuple(shape)
        self.size = int(np.prod(self.shape))
        self.sharding = sharding
        self.parts = parts
        self.owned = owned

    @classmethod
    def of(cls, value) -> "Shards":
        """Return the parts of a `jax.Array`."""
        parts, owned = {}, set()
        for shard in value.addressable_shards:
            where = _where(shard.index, value.shape)
            parts[where] = np.asarray(shard.data)
            if shard.replica_id == 0:
                owned.add(where)
        return cls(value.shape, value.sharding, parts, owned)

    @property
    def dtype(self) -> np.dtype:
        return next(iter(self.parts.values())).dtype

    def map(self, function: Callable, *others: "Shards") -> "Shards":
        """Apply a function to each part and the matching parts of others."""
        parts = {
            where: function(part, *(other.parts[where] for other in others))
            for where, part in self.parts.items()
        }
        return Shards(self.shape, self.sharding, parts, self.owned)

    def own_parts(self, *others: "Shards"):
        """Yield tuples of the parts that count in this process."""
        for where in sorted(self.owned):
            yield self.parts[where], *(other.parts[where] for other in others)

    def all(self) -> bool:
        """Return whether all entries are true, in all processes."""
        return count(self) == self.size

    def spread(self):
        """Return the `jax.Array` that the parts belong to."""
        import jax

        return jax.make_array_from_callback(
            self.shape,
            self.sharding,
            lambda index: self.parts[_where(index, self.shape)],
        )

    def array(self) -> np.ndarray:
        """Gather the whole array from all processes."""
        from jax.experimental import multihost_utils

        return np.asarray(
            multihost_utils.process_allgather(self.spread(), tiled=True)
        )

    def places(self) -> list:
        """Return the bounds of the parts of all processes."""
        indices = self.sharding.devices_indices_map(self.shape).values()
        return sorted({_where(index, self.shape) for index in indices})


def _where(index, shape):
    return tuple(
        part.indices(length)[:2]
        for part, length in zip(index, shape, strict=True)
    )


class ShardedScores(Scores):
    """The magnitudes of a kernel that is spread over several processes.

    Args:
        values: The kernel.
        name: Name of the kernel for error messages.
    """

    def __init__(self, values: Shards, name: str = ""):
        _check_finite(values, name)
        first = next(iter(values.parts.values()))
        super().__init__(first[:0], absolute=True, name=name)
        self.shape, self.size = values.shape, values.size
        self.values = values
        self.kept = values.map(lambda part: np.ones(part.shape, bool))

    def where(self, alive):
        scores = type(self).__new__(type(self))
        scores.__dict__.update(self.__dict__, kept=alive)
        return scores

    @property
    def alive(self):
        return count(self.kept)

    def array(self):
        """Gather all scores from all processes."""
        return np.where(
            self.kept.array(),
            np.abs(self.values.array().astype(self.dtype)),
            self.dtype.type(PRUNED),
        )


def counts(masks: Sequence) -> list[int]:
    """Return the number of kept entries in each mask.

    Args:
        masks: Boolean arrays or `Shards`.
    """
    here = [
        sum(int(np.count_nonzero(part)) for (part,) in mask.own_parts())
        if isinstance(mask, Shards)
        else int(np.count_nonzero(mask))
        for mask in masks
    ]
    if not any(isinstance(mask, Shards) for mask in masks):
        return here
    everywhere = processes.total(here).tolist()
    return [
        everywhere[i] if isinstance(mask, Shards) else here[i]
        for i, mask in enumerate(masks)
    ]


def count(mask) -> int:
    """Return the number of kept entries in a mask."""
    return counts([mask])[0]


def keep_highest(scores: Sequence[Scores], left: int) -> list:
    """Choose the highest of all scores, across processes.

    See `scores.keep_highest`, which is used if no scores are spread.

    Returns:
        One mask per kernel: a boolean array, or `Shards` where the scores are
        spread.
    """
    if not any(isinstance(s, ShardedScores) for s in scores):
        return whole.keep_highest(scores, left)
    dtype = np.result_type(np.float32, *(s.dtype for s in scores))
    offsets = np.cumsum([0, *(s.size for s in scores)])
    pieces = [
        piece
        for s, offset in zip(scores, offsets[:-1].tolist(), strict=True)
        for piece in _pieces(s, offset, dtype)
    ]
    owned = [piece for piece in pieces if piece.owned]
    width = 8 * dtype.itemsize
    threshold, missing, ties = _nth_highest(
        lambda: (key for piece in owned for key in piece.chunks()), width, left
    )
    # Among equal scores the higher index stays.
    first = 0
    if missing < ties:
        first, _, _ = _nth_highest(
            lambda: (piece.places(threshold) for piece in owned), 64, missing
        )
    for piece in pieces:
        piece.keep_from(threshold, first)
    masks = []
    for s in scores:
        mine = {p.where: p.mask for p in pieces if p.scores is s}
        if isinstance(s, ShardedScores):
            masks.append(
                Shards(s.shape, s.values.sharding, mine, s.values.owned)
            )
        else:
            (mask,) = mine.values()
            masks.append(mask)
    return masks


class _Piece:
    """A part of a kernel that this process holds.

    Scores become keys: integers in the same order, with 0 for pruned.
    """

    def __init__(self, scores, where, values, alive, owned, offset, dtype):
        self.scores = scores
        self.where = where
        self.owned = owned
        self.mask = None
        self._values = values
        self._alive = alive
        self._offset = offset
        self._dtype = dtype

    def chunks(self):
        """Yield the keys in row-major order, chunk by chunk."""
        integers = f"uint{8 * self._dtype.itemsize}"
        values, alive = self._values.reshape(-1), self._alive.reshape(-1)
        for start in range(0, max(values.size, 1), _CHUNK):
            part = slice(start, start + _CHUNK)
            keys = np.abs(values[part].astype(self._dtype)).view(integers)
            # Plus 1, to tell a score of 0 from pruned.
            yield np.where(alive[part], keys + keys.dtype.type(1), 0)

    def places(self, key):
        """Return the global positions of scores with this key, from 1."""
        equal = np.concatenate([keys == key for keys in self.chunks()])
        at = np.unravel_index(np.flatnonzero(equal), self._values.shape)
        begins = [begin for begin, _ in self.where]
        index = [i + begin for i, begin in zip(at, begins, strict=True)]
        places = np.ravel_multi_index(index, self.scores.shape)
        return (places + (self._offset + 1)).astype(np.uint64)

    def keep_from(self, key, place):
        """Keep higher keys, and this key from position `place` on."""
        keys = np.concatenate(list(self.chunks()))
        self.mask = (keys > key).reshape(self._values.shape)
        equal = np.flatnonzero(keys == key)
        stay = equal[self.places(key) >= place]
        self.mask.reshape(-1)[stay] = True


def _pieces(scores, offset, dtype):
    if isinstance(scores, ShardedScores):
        for where, values in scores.values.parts.items():
            yield _Piece(
                scores,
                where,
                values,
                scores.kept.parts[where],
                where in scores.values.owned,
                offset,
                dtype,
            )
        return
    # All processes hold it, so only one counts it.
    values = scores.array()
    yield _Piece(
        scores,
        tuple((0, length) for length in scores.shape),
        np.maximum(values, 0),
        values > PRUNED,
        processes.process_index() == 0,
        offset,
        dtype,
    )


def _nth_highest(keys, width, n):
    """Find the `n`-th highest key of all processes.

    Args:
        keys: Callable () -> iterable of arrays of unsigned integers.
        width: The number of bits of the keys.
        n: Integer >= 0.

    Returns:
        The tuple (key, number of keys equal to it among the `n` highest,
        number of keys equal to it). For `n = 0`, a key above all others.
    """
    if n == 0:
        return 2**width, 0, 0
    found, equal = 0, 0
    for shift in range(width - _BITS, -1, -_BITS):
        histogram = np.zeros(1 << _BITS, np.int64)
        for part in keys():
            kind = part.dtype.type
            if shift + _BITS < width:
                part = part[part >> kind(shift + _BITS) == kind(found)]
            digits = (part >> kind(shift)) & kind((1 << _BITS) - 1)
            histogram += np.bincount(
                digits.astype(np.int64), minlength=1 << _BITS
            )
        histogram = processes.total(histogram)
        above = np.cumsum(histogram[::-1])[::-1]
        digit = int(np.flatnonzero(above >= n)[-1])
        equal = int(histogram[digit])
        n -= int(above[digit]) - equal
        found = found << _BITS | digit
    return found, n, equal


def _check_finite(values, name):
    """Raise ValueError in all processes if any weight is not finite."""
    error = None
    for where, part in values.parts.items():
        try:
            begins = [begin for begin, _ in where]
            whole.check_finite(part, "weights", name, begins)
        except ValueError as problem:
            error = str(problem)
    if processes.total([error is not None])[0]:
        raise ValueError(
            error
            or f"All weights must be finite to be ranked. Received: '{name}', "
            "which has a non-finite weight in another process"
        )


def digests(masks: Sequence, names: Sequence[str]) -> tuple[list, list[str]]:
    """Return the arguments of `processes.check_agreement` for masks."""
    found, called = [], []
    for mask, name in zip(masks, names, strict=True):
        parts, places = {None: mask}, [None]
        if isinstance(mask, Shards):
            parts, places = mask.parts, mask.places()
        for place in places:
            found.append(_digest(parts[place]) if place in parts else None)
            called.append(name)
    return found, called


def _digest(array):
    packed = np.packbits(np.asarray(array, bool))
    digest = hashlib.blake2b(packed.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2
