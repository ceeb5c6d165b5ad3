"""Dense layers of all kinds: products over some axes of the inputs."""

import math
import re

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_bimp._src.backends import as_array
from keras_bimp._src.exporting.sparse_kernels.layouts import Columns
from keras_bimp._src.exporting.sparse_kernels.layouts import Layouts
from keras_bimp._src.exporting.sparse_kernels.products import Product

# Elementwise activations, for which the order of axes does not matter.
_ELEMENTWISE = {
    getattr(keras.activations, name)
    for name in (
        "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid",
        "hard_silu", "hard_tanh", "leaky_relu", "linear", "log_sigmoid",
        "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink",
        "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "squareplus",
        "tanh", "tanh_shrink", "threshold",
    )
}  # fmt: skip


class Equation:
    """The equation of an `EinsumDense`, as a product of two matrices.

    Args:
        equation: As in `EinsumDense`.

    Attributes:
        is_product: Whether it is a product of two matrices: each axis of the
            kernel is either summed over and in the inputs, or only in the
            outputs.
        kernel: The letters of the kernel's axes.
        summed: The letters of the kernel's axes that are summed over.
        free: The letters of the kernel's other axes.
    """

    def __init__(self, equation: str):
        found = re.fullmatch(
            r"([a-zA-Z.]+),([a-zA-Z]+)->([a-zA-Z.]+)",
            equation.replace(" ", ""),
        )
        x, self.kernel, y = found.groups() if found else ("", "", "")
        self._x, self._y = (s.replace("...", "0") for s in (x, y))
        self.summed = [c for c in self.kernel if c not in y]
        self.free = [c for c in self.kernel if c in y]
        kept = {*self._x} - {*self.summed}
        self.is_product = bool(
            found
            and all(
                len({*s}) == len(s) for s in (self._x, self.kernel, self._y)
            )
            and {*self.summed} <= {*self._x}
            and self.summed
            and not {*self.free} & {*self._x}
            and kept | {*self.free} == {*self._y}
        )

    def of_rank(self, rank: int) -> tuple[str, str]:
        """Returns the letters of the axes of inputs and outputs."""
        count = rank - len(self._x.replace("0", ""))
        digits = "".join(map(chr, range(0x100, 0x100 + count)))
        return self._x.replace("0", digits), self._y.replace("0", digits)

    def matrix(self, kernel: np.ndarray) -> np.ndarray:
        """Returns a kernel as a matrix of shape (outputs, inputs)."""
        order = [self.kernel.index(c) for c in (*self.free, *self.summed)]
        free = [kernel.shape[self.kernel.index(c)] for c in self.free]
        turned = np.transpose(kernel, order)
        return turned.reshape(math.prod(free), -1)


def equation_of(layer: layers.Dense | layers.EinsumDense) -> Equation:
    """Returns the equation of a layer."""
    if isinstance(layer, layers.EinsumDense):
        return Equation(layer.equation)
    return Equation("...a,ab->...b")


def refuses(layer) -> str | None:
    """Returns why a dense layer cannot be sparse; `None` if it can."""
    if not equation_of(layer).is_product:
        return "not a product of two matrices"
    return None


def matrix(layer) -> np.ndarray:
    """Returns the kernel of a dense layer, of shape (outputs, inputs)."""
    return equation_of(layer).matrix(as_array(layer.kernel))


def call(layer, product: Product, layouts: Layouts, x):
    """Calls a dense layer with a sparse kernel."""
    equation = equation_of(layer)
    of_x, of_y = equation.of_rank(len(x.shape))
    columns = layouts.matrix(x, tuple(of_x.index(c) for c in equation.summed))
    others = [c for c in of_x if c not in equation.summed]
    sizes = dict(zip(equation.kernel, layer.kernel.shape, strict=True))
    letters = (*equation.free, *others)
    columns = Columns(
        product(columns.matrix),
        tuple(sizes[c] for c in equation.free),
        columns.others,
        tuple(map(letters.index, of_y)),
    )
    bias = getattr(layer, "bias", None)
    return finished(columns, layouts, bias, layer.activation)


def finished(columns: Columns, layouts: Layouts, bias, activation):
    """Adds a bias and applies an activation, then restores the axes' order.

    Args:
        columns: The result of the product.
        layouts: Where to keep the result.
        bias: `None` or a variable that broadcasts to the outputs.
        activation: `None` or a function.
    """
    if bias is not None:
        place = _place(columns, bias.shape)
        if place is None:
            x = ops.add(layouts.keep(columns), bias)
            return x if activation is None else activation(x)
        own, full, order = place
        value = ops.convert_to_tensor(bias)
        if own != full or order != sorted(order):
            value = ops.broadcast_to(ops.reshape(value, own), full)
            value = ops.transpose(value, order)
        value = ops.reshape(value, (-1, 1))
        columns = columns._replace(matrix=ops.add(columns.matrix, value))
    if activation is None:
        return layouts.keep(columns)
    if activation in _ELEMENTWISE:
        matrix = activation(columns.matrix)
        return layouts.keep(columns._replace(matrix=matrix))
    return activation(columns.usual())


def is_elementwise(function) -> bool:
    """Whether an activation is elementwise."""
    return function in _ELEMENTWISE


def _place(columns, shape):
    """Returns a bias's sizes along the units, their sizes, and their order.

    Returns `None` if the bias is not the same for all columns.
    """
    axes = columns.axes  # For each output axis, its index in (units, others).
    sizes = (1,) * (len(axes) - len(shape)) + tuple(shape)
    count = len(columns.units)
    if any(
        n != 1 for n, place in zip(sizes, axes, strict=True) if place >= count
    ):
        return None
    places = [place for place in axes if place < count]
    full = [columns.units[place] for place in places]
    own = [n for n, place in zip(sizes, axes, strict=True) if place < count]
    if any(n not in (1, m) for n, m in zip(own, full, strict=True)):
        return None
    return own, full, [places.index(i) for i in range(count)]
