"""Rules: how an operation maps input channels to output channels."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_bimp._src.selection import Part
from keras_bimp._src.shrinking.channels import Channels
from keras_bimp._src.shrinking.channels import Classes
from keras_bimp._src.shrinking.channels import Kept


class NotFollowedError(Exception):
    """Raised if a rule does not apply; the message is the reason."""


@dataclasses.dataclass
class Call:
    """One call of an operation in the graph.

    Args:
        inputs: Its tensors, in the order of its arguments.
        shapes: Their shapes.
        arguments: Positional and keyword arguments, with
            `keras.KerasTensor`s for the tensors.
        outputs: What it returns.
    """

    inputs: list[Channels]
    shapes: list[tuple]
    arguments: tuple[list, dict]
    outputs: list[Channels] = dataclasses.field(default_factory=list)

    @property
    def output(self) -> Channels:
        return self.outputs[0]


@dataclasses.dataclass
class Smaller:
    """How an operation shrinks.

    Args:
        config: The changes in its config.
        weights: Name of an attribute -> array, for all its new weights.
            `None` if its weights do not change.
    """

    config: dict = dataclasses.field(default_factory=dict)
    weights: dict | None = None


class Rule:
    """Base class of the rules of operations.

    Args:
        operation: A layer, or an operation of `keras.ops`.
        classes: The `Classes` of the whole model.

    Attributes:
        sized: Whether the operation depends on the number of input channels,
            so that the inputs of all its calls keep the same channels.
        settles: Whether a channel is constant once its weights are zeros.
        calls: All its calls.
    """

    sized = True
    settles = True

    def __init__(self, operation: keras.Operation, classes: Classes):
        self.operation = operation
        self.classes = classes
        self.calls = []

    def follow(self, call: Call, outputs: int) -> list[Channels]:
        """Adds a call.

        Raises:
            NotFollowedError: If the rule does not apply to it.
        """
        if outputs != 1:
            raise NotFollowedError("it returns several tensors")
        call.outputs = [self.forward(call)]
        if self.calls and self.sized:
            self._unite(self.calls[0], call)
        self.calls.append(call)
        return call.outputs

    def _unite(self, first, other):
        pairs = list(
            zip(
                [*first.inputs, *first.outputs],
                [*other.inputs, *other.outputs],
                strict=True,
            )
        )
        if any(a.size != b.size for a, b in pairs):
            raise NotFollowedError("its calls differ in their channels")
        for a, b in pairs:
            self.classes.unite(a.numbers, b.numbers)

    def forward(self, call: Call) -> Channels:
        """Returns the channels of the output."""
        raise NotImplementedError

    def backward(self, call: Call) -> None:
        """Marks which channels of the inputs are read."""
        for x in call.inputs:
            x.read |= call.output.live

    def demand(self, kept: Kept) -> bool:
        """Keeps further channels that must stay; returns whether it grew."""
        return False

    def needs(self, kept: Kept) -> list[np.ndarray]:
        """Returns arrays of channel numbers: one of each must stay."""
        return []

    def align(self, kept: Kept, align: int) -> bool:
        """Keeps a multiple of `align` outputs; returns whether it grew."""
        return False

    def smaller(self, kept: Kept) -> Smaller:
        """Returns how the operation shrinks."""
        return Smaller()

    def filters(self) -> list[tuple[keras.Variable, np.ndarray]]:
        """Returns pairs of a kernel and its filters' channel numbers."""
        return []

    def parts(self) -> list[tuple[keras.Variable, Part]]:
        """Returns pairs of a kernel and which weights belong to a channel."""
        return []

    def together(self) -> list[np.ndarray]:
        """Returns arrays of channel numbers that are removed together."""
        return []


class Barrier(Rule):
    """An unknown operation: all its channels stay.

    Args:
        reason: Why it is unknown, or why they stay.
    """

    def __init__(self, operation, classes, reason: str):
        super().__init__(operation, classes)
        self.reason = reason

    def add(self, call: Call) -> None:
        """Adds a call whose outputs are already known."""
        why = f"'{self.operation.name}': {self.reason}"
        for x in [*call.inputs, *call.outputs]:
            self.classes.keep_whole(x.numbers, why)
        self.calls.append(call)

    def backward(self, call):
        for x in call.inputs:
            x.read[:] = True


def evaluate(function, ranks: list[int], *constants: np.ndarray) -> np.ndarray:
    """Calls a function that acts on each channel separately on constants.

    Args:
        function: Callable of tensors whose last axis is the channels.
        ranks: How many axes each tensor has.
        *constants: See `Channels`.

    Returns:
        Array of constants, NaN where any of `constants` is.
    """
    unknown = np.logical_or.reduce([np.isnan(c) for c in constants])
    if unknown.all():
        return np.full(unknown.shape, np.nan)
    given = [
        ops.convert_to_tensor(
            np.where(np.isnan(c), 0.0, c).reshape((1,) * (rank - 1) + (-1,)),
            "float32",
        )
        for rank, c in zip(ranks, constants, strict=True)
    ]
    rows = ops.convert_to_numpy(ops.cast(function(*given), "float32"))
    rows = rows.reshape(-1, rows.shape[-1]).astype(float)
    unknown = unknown | (rows != rows[0]).any(0) | ~np.isfinite(rows[0])
    return np.where(unknown, np.nan, rows[0])


def is_elementwise(activation) -> bool:
    """Whether an activation is elementwise."""
    return activation in _ELEMENTWISE


_ELEMENTWISE = {
    keras.activations.get(name)
    for name in (
        "celu",
        "elu",
        "exponential",
        "gelu",
        "hard_shrink",
        "hard_sigmoid",
        "hard_silu",
        "hard_tanh",
        "leaky_relu",
        "linear",
        "log_sigmoid",
        "mish",
        "relu",
        "relu6",
        "selu",
        "sigmoid",
        "silu",
        "soft_shrink",
        "softplus",
        "softsign",
        "sparse_plus",
        "squareplus",
        "tanh",
        "tanh_shrink",
        "threshold",
    )
}
