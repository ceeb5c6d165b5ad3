"""Data whose order can be reproduced."""

import math
from collections.abc import Callable

import keras
import numpy as np

from keras_bimp._src.checks import check_integer


class EpochData(keras.utils.PyDataset):
    """Arrays in batches, in an order that depends only on seed and epoch.

    `fit` shuffles arrays in an order that a later run cannot reproduce. With
    this class, a killed run resumes with exactly the batches that it would
    have had: `keras_bimp.callbacks` and `Backup` tell it the epoch. Without
    them, it counts its own passes, but not with `use_multiprocessing`.

    Train an unwrapped model with `keras_bimp.fit`. `model.fit` would not tell
    the epoch, and would shuffle the batches unless `shuffle=False`. Do not
    pass `steps_per_epoch`.

    Args:
        x: Array whose first axis counts samples, or a dict, list or tuple of
            such arrays.
        y: Targets, of the same length; or `None`.
        sample_weight: Weights of the samples, of the same length; or `None`.
        batch_size: Integer >= 1. The last batch may be smaller.
        shuffle: Whether to shuffle the samples in every epoch.
        seed: Integer >= 0, determines the orders.
        transform: Callable `(batch, rng) -> batch` that changes each batch,
            for example to augment images. `batch` is the tuple passed to
            `fit`; `rng` is a `numpy.random.Generator` that depends only on
            seed, epoch and batch index.
        **kwargs: Passed to `keras.utils.PyDataset`, such as `workers`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the arrays have different lengths or are empty.

    Attributes:
        epoch: Integer >= 0, the current epoch.

    Example:

    >>> data = keras_bimp.backup.EpochData(
    ...     np.arange(4), batch_size=2, shuffle=False
    ... )
    >>> [batch[0].tolist() for batch in data]
    [[0, 1], [2, 3]]
    """

    # `fit` of a wrapped model need not shuffle it.
    shuffles_itself = True

    def __init__(
        self,
        x,
        y=None,
        sample_weight=None,
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
        transform: Callable | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.batch_size = check_integer("batch_size", batch_size, minimum=1)
        self.seed = check_integer("seed", seed, minimum=0)
        self.shuffle = shuffle
        self.transform = transform
        self._arrays = (x, y, sample_weight)
        if sample_weight is None:
            self._arrays = (x,) if y is None else (x, y)
        self._size = _common_length(self._arrays)
        self.epoch = 0

    @property
    def epoch(self) -> int:
        return self._now[0]

    @epoch.setter
    def epoch(self, epoch: int):
        epoch = check_integer("epoch", epoch, minimum=0)
        order = np.arange(self._size)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
        # Assigned together, because other threads may be drawing batches.
        self._now = epoch, order
        self._drawn = self._in_turn = 0
        self._last_drawn = -1
        self._shuffled = False

    @property
    def num_batches(self) -> int:
        return math.ceil(self._size / self.batch_size)

    def __getitem__(self, index: int) -> tuple:
        self._drawn += 1
        self._in_turn += index == self._last_drawn + 1
        self._last_drawn = index
        epoch, order = self._now
        begin = index * self.batch_size
        chosen = order[begin : begin + self.batch_size]
        batch = keras.tree.map_structure(
            lambda array: None if array is None else array[chosen],
            self._arrays,
        )
        if self.transform is not None:
            rng = np.random.default_rng([self.seed, epoch, 1 + index])
            batch = self.transform(batch, rng)
        return batch

    def on_epoch_end(self):
        # Keras also calls this when a `fit` begins.
        if self._drawn >= self.num_batches:
            single = self.workers <= 1 and self.num_batches > 3
            shuffled = single and self._in_turn < self._drawn / 2
            self.epoch += 1
            self._shuffled = shuffled

    def check_order(self) -> None:
        """Raise ValueError if `fit` shuffled the batches of the last epoch."""
        if self._shuffled:
            self._shuffled = False
            raise ValueError(
                "`fit` must be called with shuffle=False: it shuffles the "
                "batches of an `EpochData`, which shuffles its samples itself. "
                "Received: batches in another order"
            )


def _common_length(arrays):
    lengths = set()
    for array in keras.tree.flatten(arrays):
        if array is not None and not getattr(array, "shape", ()):
            raise TypeError(
                "`x`, `y` and `sample_weight` must be arrays. "
                f"Received: {type(array).__name__}"
            )
        if array is not None:
            lengths.add(array.shape[0])
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            "`x`, `y` and `sample_weight` must be arrays of the same length, "
            f"at least 1. Received: lengths {sorted(lengths)}"
        )
    return lengths.pop()
