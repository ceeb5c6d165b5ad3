"""Extra data besides that of `fit`, read in batches."""

import itertools
import math
import operator
from collections.abc import Iterator

import keras

from keras_bimp._src.checks import check_positive

_BATCH_SIZE = 128  # For arrays.


class Samples:
    """Part of the data passed as `data`.

    Args:
        data: A tuple of arrays `(x, y)` or `(x, y, sample_weight)`, or a
            dataset of batches that can be read repeatedly.
        fraction: Float in (0, 1], the share of the data to use: its first
            batches.
    """

    def __init__(self, data, fraction: float = 1.0):
        self.data = data
        self.fraction = check_fraction(fraction)
        if self.arrays:
            self._check_arrays()
        else:
            self._check_batches()

    def _check_arrays(self):
        lengths = {
            x.shape[0] if getattr(x, "shape", ()) else None
            for x in keras.tree.flatten(self.data)
        }
        if len(self.data) not in (2, 3) or len(lengths) != 1 or None in lengths:
            raise ValueError(
                "`data` must be (x, y) or (x, y, sample_weight) if it is a "
                "tuple, arrays of the same length. Received: a tuple of "
                f"{len(self.data)}, lengths {sorted(map(str, lengths))}"
            )

    def _check_batches(self):
        kind = type(self.data).__name__
        if (
            isinstance(self.data, list | Iterator | str)
            or hasattr(self.data, "shape")
            or not hasattr(self.data, "__iter__")
        ):
            raise ValueError(
                "`data` must be a tuple of arrays (x, y), or batches that can "
                "be read repeatedly, such as a tf.data.Dataset or a PyDataset. "
                f"Received: data of type {kind}"
            )
        endless = getattr(self.data, "num_batches", 0) is None
        if hasattr(self.data, "cardinality"):
            endless = int(self.data.cardinality()) == -1
        if endless:
            raise ValueError(
                "`data` must not be infinite. "
                f"Received: a {kind} that never ends"
            )

    @property
    def arrays(self) -> bool:
        """Whether the data is arrays, not batches."""
        return isinstance(self.data, tuple)

    def size(self) -> int | None:
        """Return how many samples or batches to use; `None` for all."""
        if self.fraction == 1:
            return None
        counted = self.data
        if self.arrays:
            counted = keras.tree.flatten(counted)[0]
        try:
            return math.ceil(self.fraction * len(counted))
        except TypeError as error:
            raise ValueError(
                "`data_fraction` needs `data` of known length. "
                f"Received: data_fraction={self.fraction}: {error}"
            ) from error

    def part(self, size: int | None):
        """Return the first samples of arrays."""
        return keras.tree.map_structure(
            operator.itemgetter(slice(size)), self.data
        )

    def batches(self, limit: int | None = None, batch_size: int | None = None):
        """Yield `(x, y, sample_weight)` of at most `limit` batches.

        Arrays are split into batches of `batch_size`.
        """
        batches = self.data
        if self.arrays:
            batches = split(self.part(self.size()), batch_size)
        elif self.size() is not None:
            batches = itertools.islice(batches, self.size())
        for batch in itertools.islice(batches, limit):
            yield keras.utils.unpack_x_y_sample_weight(batch)


def check_fraction(fraction) -> float:
    """Return `data_fraction`; raise if it is invalid."""
    if check_positive("data_fraction", fraction) > 1:
        raise ValueError(
            "`data_fraction` must be in (0, 1]. "
            f"Received: data_fraction={fraction}"
        )
    return fraction


def split(arrays, batch_size: int | None = None):
    """Yield batches of (possibly nested) arrays."""
    batch_size = batch_size or _BATCH_SIZE
    for begin in range(0, len(keras.tree.flatten(arrays)[0]), batch_size):
        part = slice(begin, begin + batch_size)
        yield keras.tree.map_structure(operator.itemgetter(part), arrays)
