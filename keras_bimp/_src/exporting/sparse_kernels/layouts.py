"""Activations as matrices with a column per example, kept for the next layer.

A sparse kernel multiplies from the left: it takes a matrix with a row per
input and a column per example, and returns one with a row per output. The next
layer may take that layout too, so the matrix is kept along with the tensor in
the usual order of axes, which costs nothing if it is not used.
"""

import math
from typing import NamedTuple

from keras_bimp._src.exporting.sparse_kernels.products import padded


class Columns(NamedTuple):
    """A tensor as a matrix with a column per example.

    Attributes:
        matrix: Tensor of shape (units, columns), with padding columns at the
            end.
        units: The sizes of the axes that its rows run over.
        others: The sizes of the axes that its columns run over; unknown sizes
            are tensors.
        axes: For each axis of the tensor, its index in (units, others).
    """

    matrix: object
    units: tuple
    others: tuple
    axes: tuple[int, ...]

    def of_units(self) -> tuple[int, ...]:
        """Returns the axes of the tensor that the rows run over, in order."""
        return tuple(map(self.axes.index, range(len(self.units))))

    def unpacked(self):
        """Returns the tensor with its axes ordered as units, others."""
        import tensorflow as tf

        count = math.prod(self.others)
        matrix = self.matrix[:, :count]
        return tf.reshape(matrix, (*self.units, *self.others))

    def usual(self):
        """Returns the tensor with its axes in the usual order."""
        import tensorflow as tf

        return tf.transpose(self.unpacked(), self.axes)


class Layouts:
    """The tensors whose matrix is known, by graph."""

    def __init__(self):
        self._outputs, self._inputs = {}, {}

    def of(self, x) -> Columns | None:
        """Returns what `keep` stored for a tensor, if anything."""
        _, columns = self._outputs.get(_key(x), (None, None))
        return columns

    def keep(self, columns: Columns):
        """Stores a matrix, and returns its tensor in the usual order."""
        x = columns.usual()
        # Keeps the tensor alive, so that its `id` is not reused.
        self._outputs[_key(x)] = x, columns
        return x

    def known(self, x, units: tuple[int, ...]) -> Columns | None:
        """Returns a tensor's matrix if it is known; see `matrix`."""
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
        """Returns a tensor as a matrix.

        Args:
            x: The tensor.
            units: The axes that the rows run over, in order.
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
    """Returns the sizes of a tensor's axes; unknown sizes are tensors."""
    import tensorflow as tf

    return [
        tf.shape(x)[i] if size is None else size
        for i, size in enumerate(x.shape)
    ]


def _order(x, units):
    return *units, *(i for i in range(len(x.shape)) if i not in units)


def _key(x):
    return id(getattr(x, "graph", None)), id(x)
