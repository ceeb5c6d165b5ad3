"""Scores of kernels, and the exact choice of the highest.

The choice reads the weights once, in chunks that fit into the cache, and needs
little memory beyond the masks it returns.
"""

import copy
import math
from collections.abc import Sequence

import numpy as np

# The score of pruned units: lower than any other.
PRUNED = -np.inf

_CHUNK = 1 << 16  # Entries.
_SMALL = 1 << 16  # Up to this many scores are partitioned directly.
_SAMPLE = 1 << 17  # Largest sample to bracket the threshold of more scores.


class Scores:
    """The scores of a kernel's units: weights, filters or blocks.

    Args:
        values: Array of floats, one per unit.
        absolute: Whether the score is the magnitude of the value. It is
            computed chunk by chunk, without a copy of the kernel.
        measures: Whether scores are amounts; random scores are not.
        name: Name of the kernel for error messages.
    """

    def __init__(
        self,
        values: np.ndarray,
        *,
        absolute: bool = False,
        measures: bool = True,
        name: str = "",
    ):
        self.shape = values.shape
        self.size = values.size
        self.absolute = absolute
        self.measures = measures
        self.name = name
        # Half precision and bfloat16 are ranked in float32.
        double = values.dtype.kind in "iub" or values.dtype.itemsize > 4
        self.dtype = np.dtype("float64" if double else "float32")
        self._values = values.reshape(-1)
        self._alive = None
        if not absolute:
            check_finite(values, "scores", name)

    def where(self, alive: np.ndarray) -> "Scores":
        """Return the same scores, with units pruned where `alive` is False."""
        scores = copy.copy(self)
        scores._alive = alive.reshape(-1)
        return scores

    @property
    def alive(self) -> int:
        """The number of units that are not pruned yet."""
        if self._alive is None:
            return self.size
        return int(np.count_nonzero(self._alive))

    def array(self) -> np.ndarray:
        """Return all scores in the kernel's shape; `-inf` where pruned."""
        out = np.empty(self.size, self.dtype)
        for start in range(0, self.size, _CHUNK):
            self.read(start, out[start : start + _CHUNK])
        return out.reshape(self.shape)

    def read(self, start: int, out: np.ndarray) -> None:
        """Write the scores from index `start` into `out`."""
        part = slice(start, start + len(out))
        if self.absolute:
            if self._values.dtype == out.dtype:
                np.abs(self._values[part], out=out)
            else:
                out[:] = self._values[part]
                np.abs(out, out=out)
            if len(out) and not out.max() < np.inf:
                check_finite(
                    self._values.reshape(self.shape), "weights", self.name
                )
        else:
            out[:] = self._values[part]
        if self._alive is not None:
            np.copyto(out, PRUNED, where=~self._alive[part])

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return about `count` random scores, drawn with replacement."""
        at = rng.integers(self.size, size=count)
        values = self._values[at].astype(self.dtype)
        if self.absolute:
            values = np.abs(values)
        if self._alive is not None:
            values[~self._alive[at]] = PRUNED
        return values


def check_finite(
    values: np.ndarray, what: str, name: str, begins: Sequence[int] = ()
) -> None:
    """Raise ValueError with the first index of a non-finite value.

    Args:
        values: An array, or a part of one.
        what: Plural noun for the values.
        name: Name of the array.
        begins: Index where the part begins. Defaults to the array's beginning.
    """
    finite = np.isfinite(values)
    if finite.all():
        return
    here = np.unravel_index(finite.argmin(), values.shape)
    begins = begins or (0,) * values.ndim
    index = tuple(int(i) + b for i, b in zip(here, begins, strict=True))
    where = f" in '{name}'" if name else ""
    raise ValueError(
        f"All {what} must be finite to be ranked. "
        f"Received: {values[here]}{where} at index {index}"
    )


def amounts(scores: Scores, mask: np.ndarray, what: str) -> np.ndarray:
    """Return all scores as float64, 0 where pruned.

    Raises:
        ValueError: If a score is negative.
    """
    values = np.where(mask, scores.array(), 0.0).astype(np.float64)
    if values.min(initial=0.0) < 0:
        raise ValueError(
            f"`criterion` must return scores >= 0, so that the scores of a "
            f"{what} can be summed. Received: {values.min()}"
        )
    return values


def keep_highest(scores: Sequence[Scores], count: int) -> list[np.ndarray]:
    """Choose the `count` highest scores of all kernels, exactly.

    Among equal scores the higher index stays: kernels in order, entries of a
    kernel in row-major order.

    Args:
        scores: The scores of each kernel.
        count: Integer in [0, number of scores that are alive].

    Returns:
        One boolean array per kernel, True = kept.
    """
    dtype = np.result_type(np.float32, *(s.dtype for s in scores))
    total = sum(s.size for s in scores)
    if total <= _SMALL:
        everything = [s.array().astype(dtype).ravel() for s in scores]
        threshold = _highest(np.concatenate([*everything, []]), count)
        return _keep_from(scores, threshold, count, dtype)
    low, high = _bracket(scores, count, total, dtype)
    masks, above, between = _split(scores, low, high, dtype)
    values = np.concatenate([found for _, _, found in between])
    missing = count - above
    if 0 <= missing <= len(values):
        stay = _highest_of(values, missing)
        for mask, at, found in between:
            mask[at[stay[: len(found)]]] = True
            stay = stay[len(found) :]
        return [m.reshape(s.shape) for m, s in zip(masks, scores, strict=True)]
    # Many scores equal one end of the bracket, or the sample was unusual.
    del masks, between, values
    end = high if missing < 0 else low
    least, most = _count_from(scores, end, dtype)
    if not least <= count <= most:
        end = _highest(
            np.concatenate([s.array().astype(dtype).ravel() for s in scores]),
            count,
        )
    return _keep_from(scores, end, count, dtype)


def _highest(values, count):
    """Return the `count`-th highest value; infinity if `count` is 0."""
    if count == 0:
        return np.inf
    at = len(values) - count
    values.partition(at)
    return values[at]


def _highest_of(values, count):
    """Return a boolean array of the `count` highest; later ties stay."""
    threshold = _highest(values.copy(), count)
    keep = values > threshold
    ties = np.flatnonzero(values == threshold)
    keep[ties[len(ties) - (count - np.count_nonzero(keep)) :]] = True
    return keep


def _bracket(scores, count, total, dtype):
    """Return two scores that almost surely bracket the `count`-th highest."""
    rng = np.random.default_rng(0)
    size = min(max(total >> 7, _SMALL >> 2), _SAMPLE)
    sample = np.concatenate(
        [
            s.sample(math.ceil(size * s.size / total), rng).astype(dtype)
            for s in scores
            if s.size
        ]
    )
    share = 1 - count / total
    spread = 5 * math.sqrt(share * (1 - share) * len(sample)) + 5
    ends = [
        math.floor(share * len(sample) - spread),
        math.ceil(share * len(sample) + spread),
    ]
    inside = [at for at in ends if 0 <= at < len(sample)]
    sample.partition(inside or [0])
    low = sample[ends[0]] if ends[0] >= 0 else dtype.type(PRUNED)
    high = sample[ends[1]] if ends[1] < len(sample) else dtype.type(np.inf)
    return low, high


def _split(scores, low, high, dtype):
    """Read all scores once.

    Returns:
        Masks of the scores >= `high`; their number; and, for the scores
        strictly between `low` and `high`, triples (mask, indices, scores).
    """
    chunk, more = np.empty(_CHUNK, dtype), np.empty(_CHUNK, bool)
    masks, above, between = [], 0, []
    for s in scores:
        mask = np.empty(s.size, bool)
        masks.append(mask)
        for start in range(0, s.size, _CHUNK):
            part = mask[start : start + _CHUNK]
            values, inside = chunk[: len(part)], more[: len(part)]
            s.read(start, values)
            np.greater_equal(values, high, out=part)
            np.greater(values, low, out=inside)
            above += np.count_nonzero(part)
            inside ^= part
            at = inside.nonzero()[0]
            between.append((mask, at + start, values[at]))
    return masks, above, between


def _count_from(scores, threshold, dtype):
    """Return how many scores are > a threshold, and how many are >= it."""
    chunk = np.empty(_CHUNK, dtype)
    least = most = 0
    for s in scores:
        for start in range(0, s.size, _CHUNK):
            values = chunk[: min(_CHUNK, s.size - start)]
            s.read(start, values)
            least += np.count_nonzero(values > threshold)
            most += np.count_nonzero(values >= threshold)
    return least, most


def _keep_from(scores, threshold, count, dtype):
    """Return masks of scores >= `threshold`, the `count`-th highest score."""
    chunk = np.empty(_CHUNK, dtype)
    masks = []
    for s in scores:
        mask = np.empty(s.size, bool)
        masks.append(mask)
        for start in range(0, s.size, _CHUNK):
            part = mask[start : start + _CHUNK]
            s.read(start, chunk[: len(part)])
            np.greater_equal(chunk[: len(part)], threshold, out=part)
    surplus = sum(map(np.count_nonzero, masks)) - count
    for s, mask in zip(scores, masks, strict=True):
        for start in range(0, s.size, _CHUNK):
            if not surplus:
                break
            values = chunk[: min(_CHUNK, s.size - start)]
            s.read(start, values)
            ties = np.flatnonzero(values == threshold)[:surplus]
            mask[start + ties] = False
            surplus -= len(ties)
    return [m.reshape(s.shape) for m, s in zip(masks, scores, strict=True)]
