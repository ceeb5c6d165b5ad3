"""Linear layers, and how constant channels are moved into their biases."""

import numpy as np

from keras_bimp._src.backends import as_array
from keras_bimp._src.selection import Part
from keras_bimp._src.shrinking.channel_rules import NotFollowedError
from keras_bimp._src.shrinking.channel_rules import Rule
from keras_bimp._src.shrinking.channel_rules import Smaller
from keras_bimp._src.shrinking.channel_rules import evaluate
from keras_bimp._src.shrinking.channel_rules import is_elementwise
from keras_bimp._src.shrinking.channels import Channels


class Linear(Rule):
    """Base class of layers that sum over their inputs with a kernel.

    The contribution of a removed constant channel is added to the bias. If an
    image is padded with zeros, a constant contributes less along the border.
    Then one constant channel stays and takes over for all others.

    Attributes:
        size_argument: The argument of the config for the number of outputs.
        unit_name: What to call the outputs.
    """

    size_argument = "filters"
    unit_name = "filters"

    def __init__(self, operation, classes):
        super().__init__(operation, classes)
        if getattr(operation, "data_format", None) == "channels_first":
            raise NotFollowedError("it has channels-first data")
        self.groups = getattr(operation, "groups", 1)
        self.taps = self.as_taps(self.kernel())
        has_bias = operation.bias is not None
        self.bias = as_array(operation.bias) if has_bias else None
        _, inputs, self.outputs = self.taps.shape
        self.inputs = inputs * self.groups
        self.nonzero = self._spread((self.taps != 0).any(0))

    @property
    def pads(self) -> bool:
        """Whether the contribution of a constant may depend on position."""
        raise NotImplementedError

    def kernel(self) -> np.ndarray:
        """The kernel that the layer computes with."""
        return as_array(self.operation.kernel)

    def as_taps(self, kernel: np.ndarray) -> np.ndarray:
        """Returns a kernel as (taps, inputs of a group, outputs)."""
        return kernel.reshape(-1, *kernel.shape[-2:])

    def as_kernel(self, taps: np.ndarray) -> np.ndarray:
        """Inverts `as_taps`."""
        shape = self.operation.kernel.shape
        return taps.reshape(*shape[:-2], *taps.shape[1:])

    def forward(self, call):
        (x,) = call.inputs
        if x.size != self.inputs:
            raise NotFollowedError("its inputs have an unusual shape")
        numbers = self.classes.new(self.outputs)
        if not is_elementwise(self.operation.activation):
            self.classes.keep_whole(
                numbers, f"'{self.operation.name}': its activation mixes them"
            )
            return Channels(numbers)
        values = x.values
        moving = self.nonzero[~x.known].any(0)
        if self.pads:
            moving |= self.nonzero[values != 0].any(0)
        sums = self._sums(values)
        if self.bias is not None:
            sums = sums + self.bias
        sums = np.where(moving, np.nan, sums)
        return Channels(numbers, evaluate(self.operation.activation, [2], sums))

    def backward(self, call):
        (x,) = call.inputs
        x.read |= self.nonzero[:, self._alive(call)].any(1)

    def demand(self, kept):
        grew = self.groups > 1 and self._even_groups(kept)
        for call in self.calls:
            # All calls share one bias.
            (x,) = call.inputs
            (first,) = self.calls[0].inputs
            same = (x.constants == first.constants) | ~(x.known | first.known)
            grew |= kept.keep(x, ~same & self._read)
        return grew

    def needs(self, kept):
        if not self.pads:
            return []
        (x,) = self.calls[0].inputs
        return [
            x.numbers[rows[self._able(kept, rows)]]
            for rows in self._rows
            if self._share(kept, rows).any()
            and self._carrier(kept, rows) is None
        ]

    def align(self, kept, align):
        out = self.calls[0].output
        left = max(kept.of(out).sum(), 1)
        return kept.keep_at_least(out, -(-left // align) * align)

    def smaller(self, kept):
        stay, out = self._stay(kept), kept.of(self.calls[0].output)
        values = self._gone(kept)
        taps, bias = self.taps, self.bias
        if self.pads:
            taps = self._handed_over(kept, values)
        elif values.any():
            bias = self._sums(values) + (0.0 if bias is None else bias)
            if self.bias is None and not bias[out].any():
                bias = None
        return self.sliced(taps, bias, stay, out)

    def sliced(self, taps, bias, stay, out) -> Smaller:
        """Returns the layer with only some inputs and outputs."""
        inputs, outputs = (np.split(a, self.groups) for a in (stay, out))
        parts = [
            part[:, i][..., o]
            for part, i, o in zip(
                np.split(taps, self.groups, axis=-1),
                inputs,
                outputs,
                strict=True,
            )
            if o.any()
        ]
        config = {
            self.size_argument: int(out.sum()),
            "use_bias": bias is not None,
        }
        if self.groups > 1:
            config["groups"] = len(parts)
        weights = {"kernel": self.as_kernel(np.concatenate(parts, axis=-1))}
        if bias is not None:
            weights["bias"] = bias[out]
        return Smaller(config, weights)

    def filters(self):
        return [(self.operation.kernel, self.calls[0].output.numbers)]

    def parts(self):
        (x,), out = self.calls[0].inputs, self.calls[0].output
        name, rank = self.operation.name, len(self.operation.kernel.shape)
        read = x.numbers[:, None]
        if self.groups > 1:
            # Outputs of different groups read different inputs.
            rows = np.split(x.numbers, self.groups)
            width = self.outputs // self.groups
            read = np.stack(rows, axis=1).repeat(width, axis=1)
        return [
            (
                self.operation.kernel,
                Part(self.along(numbers, rank), computes, name, self.unit_name),
            )
            for numbers, computes in ((out.numbers[None], True), (read, False))
        ]

    def together(self):
        if self.groups == 1:
            return []
        # Inputs of one group, so that all groups keep the same number.
        (x,), out = self.calls[0].inputs, self.calls[0].output
        return [
            np.concatenate(both)
            for both in zip(
                np.split(x.numbers, self.groups),
                np.split(out.numbers, self.groups),
                strict=True,
            )
        ]

    def along(self, matrix: np.ndarray, rank: int) -> np.ndarray:
        """Returns a matrix (inputs, outputs) in the order of kernel axes."""
        return matrix.reshape((1,) * (rank - 2) + matrix.shape)

    def _spread(self, matrix):
        """Expands a matrix (inputs of a group, outputs) to all inputs."""
        if self.groups == 1:
            return matrix
        spread = np.zeros((self.inputs, self.outputs), matrix.dtype)
        width = self.outputs // self.groups
        for g, rows in enumerate(self._rows):
            outs = slice(g * width, (g + 1) * width)
            spread[rows, outs] = matrix[:, outs]
        return spread

    @property
    def _rows(self):
        """Returns the inputs of each group."""
        return np.split(np.arange(self.inputs), self.groups)

    def _sums(self, values):
        """Returns what constant inputs of `values` add to each output."""
        some = values != 0
        if not some.any():
            return np.zeros(self.outputs)
        if self.groups == 1:
            return values[some] @ self.taps[:, some].sum(0, float)
        return values @ self._spread(self.taps.sum(0, float))

    def _alive(self, call):
        if not is_elementwise(self.operation.activation):
            return np.full(self.outputs, call.output.read.any())
        return call.output.live

    @property
    def _read(self):
        """Returns which inputs are read, constant or not."""
        read = np.any([call.output.read for call in self.calls], axis=0)
        return self.nonzero[:, read].any(1)

    def _stay(self, kept):
        return kept.of(self.calls[0].inputs[0])

    def _gone(self, kept):
        """Returns the constants that are removed, and 0 elsewhere."""
        (x,) = self.calls[0].inputs
        return np.where(kept.of(x), 0.0, x.values)

    def _share(self, kept, rows):
        """Returns how large the removed constants among `rows` are."""
        return np.abs(self._gone(kept))[rows] * self._read[rows]

    def _able(self, kept, rows):
        """Returns which constants of `rows` can replace removed ones."""
        (x,) = self.calls[0].inputs
        constants = np.array([call.inputs[0].constants for call in self.calls])
        agree = (constants == constants[0]).all(0)[rows]
        # Excludes constants so small that the kernel would have to be huge.
        least = 5e-2 * self._share(kept, rows).max()
        return agree & (np.abs(x.values)[rows] >= max(least, 1e-30))

    def _carrier(self, kept, rows):
        """Returns the constant channel of `rows` that replaces others."""
        (x,) = self.calls[0].inputs
        able = self._able(kept, rows) & kept.of(x)[rows]
        sizes = np.abs(x.values)[rows] * able
        return rows[sizes.argmax()] if able.any() else None

    def _handed_over(self, kept, values):
        taps = self.taps.astype(float)
        width = self.outputs // self.groups
        for g, rows in enumerate(self._rows):
            if not self._share(kept, rows).any():
                continue
            carrier = self._carrier(kept, rows)
            (x,) = self.calls[0].inputs
            shares = values[rows] / x.constants[carrier]
            outs = slice(g * width, (g + 1) * width)
            taps[:, carrier - rows[0], outs] += np.einsum(
                "i,tio->to", shares, taps[:, :, outs]
            )
        return taps

    def _even_groups(self, kept):
        """Makes all remaining groups keep the same number of channels."""
        grew = False
        tensors = [self.calls[0].inputs[0], self.calls[0].output]
        parts = [np.split(np.arange(t.size), self.groups) for t in tensors]
        left = [
            [kept.of(t)[part].sum() for part in split]
            for t, split in zip(tensors, parts, strict=True)
        ]
        alive = np.any(left, axis=0)
        for tensor, split, counts in zip(tensors, parts, left, strict=True):
            least = max(max(counts), 1)
            for g in np.flatnonzero(alive):
                grew |= kept.keep_at_least(tensor, least, split[g])
        return grew
