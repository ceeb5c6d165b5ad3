"""Layout: the input and output axes of a kernel."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Layout:
    """The meaning of the axes of a kernel.

    An axis that is neither input nor output is spatial, such as the height
    and width of a convolution.

    Args:
        inputs: The axes that the layer sums over, except spatial ones. Empty
            for a depthwise kernel.
        outputs: The axes that together index the outputs.
        convolution: Whether the outputs are filters of a convolution.

    Example:

    >>> layout = keras_bimp.selection.Layout.of_shape((3, 3, 16, 32))
    >>> layout.inputs, layout.outputs, layout.convolution
    ((2,), (3,), True)
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    convolution: bool = False

    @classmethod
    def of_shape(cls, shape: Sequence[int]) -> "Layout":
        """Return the usual layout: outputs last, inputs before them.

        A kernel with 3 or more axes counts as a convolution.
        """
        rank = len(shape)
        return cls(
            inputs=(rank - 2,) if rank > 1 else (),
            outputs=(rank - 1,) if rank else (),
            convolution=rank > 2,
        )

    def output_units(self, shape: Sequence[int]) -> int:
        """Return how many outputs a kernel of `shape` feeds."""
        return math.prod(shape[axis] for axis in self.outputs)

    def matrices(self, array: np.ndarray) -> np.ndarray:
        """Return a view or copy of shape (space, inputs, outputs)."""
        return np.transpose(array, self._order(array.ndim)).reshape(
            self._sizes(array.shape)
        )

    def from_matrices(
        self, matrices: np.ndarray, shape: Sequence[int]
    ) -> np.ndarray:
        """Invert `matrices`, for a kernel of `shape`."""
        order = self._order(len(shape))
        moved = matrices.reshape([shape[axis] for axis in order])
        return np.transpose(moved, np.argsort(order))

    def _space(self, rank):
        return [
            axis
            for axis in range(rank)
            if axis not in self.inputs and axis not in self.outputs
        ]

    def _order(self, rank):
        return [*self._space(rank), *self.inputs, *self.outputs]

    def _sizes(self, shape):
        return [
            math.prod(shape[axis] for axis in axes)
            for axes in (self._space(len(shape)), self.inputs, self.outputs)
        ]
