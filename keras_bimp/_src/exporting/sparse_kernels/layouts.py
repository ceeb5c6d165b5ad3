"""Activations as matrices with a column per example, kept where they recur.

A sparse kernel multiplies from the left: it takes a matrix with a row per
input and a column per example, and gives one with a row per output. What
comes next may take just that, so it is kept beside the tensor in the usual
order of axes, which costs nothing if nobody asks for it.
"""

import math
from typing import NamedTuple

from keras_bimp._src.exporting.sparse_kernels.products import padded


class Columns(NamedTuple):
    """A tensor as a matrix with a column per example.

    Args:
        matrix: Tensor of shape (units, columns), with columns in the end that
            count for nothing.
        units: The sizes of the axes that its rows run over.
        others: The sizes of those that its columns run over, where unknown as
            tensors.
        axes: For each axis of the tensor, its place among both.
    """

    matrix: object
    units: tuple
    others: tuple
    axes: tuple[int, ...]

    def of_units(self) -> tuple[int, ...]:
        """The axes of the tensor that the rows run over, in that order."""
        return tuple(map(self.axes.index, range(len(self.units))))

    def unpacked(self):
        """The tensor, its axes as they are here."""
        import tensorflow as tf

        count = math.prod(self.others)
        matrix = self.matrix[:, :count]
        return tf.reshape(matrix, (*self.units, *self.others))

    def usual(self):
        """The tensor, its axes in their usual order."""
        import tensorflow as tf

        return tf.transpose(self.unpacked(), self.axes)


class Layouts:
    """The tensors of which a matrix is known, each in its own graph."""

    def __init__(self):
        self._outputs, self._inputs = {}, {}

    def of(self, x) -> Columns | None:
        """What `keep` was told of a tensor."""
        _, columns = self._outputs.get(_key(x), (None, None))
        return columns

    def keep(self, columns: Columns):
        """Returns the tensor in the usual order."""
        x = columns.usual()
        # With the tensor itself, or another may have its `id` some day.
        self._outputs[_key(x)] = x, columns
        return x

    def known(self, x, units: tuple[int, ...]) -> Columns | None:
        """A tensor as a matrix, if it is one already; see `matrix`."""
        order = _order(x, units)
        known = self.of(x)
        if (
            known is not None
            and tuple(known.axes[i] for i in order) == (*range(len(order)),)
            and len(known.units) == len(units)
        ):
            return known
        _, columns = self._inputs.get((*_key(x), units), (None, None))
        return columns

    def matrix(self, x, units: tuple[int, ...]) -> Columns:
        """A tensor as a matrix.

        Args:
            x: The tensor.
            units: The axes that the rows run over, in that order.
        """
        import tensorflow as tf

        columns = self.known(x, units)
        if columns is None:
            order, sizes = _order(x, units), sizes_of(x)
            matrix = tf.reshape(
                tf.transpose(x, order),
                (math.prod(sizes[i] for i in units), -1),
            )
            columns = Columns(
                padded(matrix),
                tuple(sizes[i] for i in units),
                tuple(sizes[i] for i in order[len(units) :]),
                tuple(order.index(i) for i in range(len(order))),
            )
            self._inputs[*_key(x), units] = x, columns
        return columns


def sizes_of(x) -> list:
    """The sizes of a tensor's axes, those that are unknown as tensors."""
    import tensorflow as tf

    return [
        tf.shape(x)[i] if size is None else size
        for i, size in enumerate(x.shape)
    ]


def _order(x, units):
    return *units, *(i for i in range(len(x.shape)) if i not in units)


def _key(x):
    return id(getattr(x, "graph", None)), id(x)
