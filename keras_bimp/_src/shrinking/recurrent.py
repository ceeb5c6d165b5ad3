"""Recurrent layers: a unit is removed with all its gates and its state."""

import copy

import numpy as np

from keras_bimp._src.backends import as_array
from keras_bimp._src.selection import Part
from keras_bimp._src.shrinking.channel_rules import NotFollowedError
from keras_bimp._src.shrinking.channel_rules import Rule
from keras_bimp._src.shrinking.channel_rules import Smaller
from keras_bimp._src.shrinking.channel_rules import is_elementwise
from keras_bimp._src.shrinking.channels import Channels


class Recurrent(Rule):
    """An LSTM, a GRU or a `SimpleRNN`.

    A unit is removed if only removed units read it. Zeros in all its gates are
    not enough, because its biases still change its state at each step.
    """

    settles = False

    def __init__(self, operation, classes):
        super().__init__(operation, classes)
        self.cells = [
            _Cell(layer, prefix) for prefix, layer in self.layers().items()
        ]

    def layers(self) -> dict:
        """Returns attribute -> layer, for the layers that hold a cell."""
        return {"": self.operation}

    def forward(self, call):
        x = self._given(call)
        inputs = len(self.cells[0].kernel)
        if x.size != inputs:
            raise NotFollowedError("its inputs have an unusual shape")
        return Channels(self.merged(self._new_units()))

    def merged(self, units: list[np.ndarray]) -> np.ndarray:
        """Returns the output numbers from the unit numbers of each cell."""
        return units[0]

    def places(self, size: int) -> list[np.ndarray]:
        """Returns the positions of each cell's units in the output."""
        return [np.arange(size)]

    def backward(self, call):
        (x,), out = call.inputs, call.output
        for cell, at in zip(self.cells, self.places(out.size), strict=True):
            alive = cell.needed(out.read[at])
            out.read[at] |= alive
            x.read |= cell.reads(alive)

    def demand(self, kept):
        grew = False
        for call in self.calls:
            # All calls share one bias.
            (x,) = call.inputs
            (first,) = self.calls[0].inputs
            same = (x.constants == first.constants) | ~(x.known | first.known)
            grew |= kept.keep(x, ~same)
        return grew | self._even(kept, 1)

    def align(self, kept, align):
        return self._even(kept, align)

    def smaller(self, kept):
        (x,), out = self.calls[0].inputs, self.calls[0].output
        values = np.where(kept.of(x), 0.0, x.values)
        weights, configs = {}, []
        for cell, at in zip(self.cells, self.places(out.size), strict=True):
            made = cell.smaller(kept.of(x), values, kept.of(out)[at])
            weights.update(made.weights)
            configs.append(made.config)
        return Smaller(self.config(configs), weights)

    def config(self, configs: list[dict]) -> dict:
        """Returns the changes in the config, from those of each layer."""
        return configs[0]

    def parts(self):
        (x,), out = self.calls[0].inputs, self.calls[0].output
        found = []
        for cell, at in zip(self.cells, self.places(out.size), strict=True):
            found += cell.parts(x.numbers, out.numbers[at], self.operation.name)
        return found

    def _given(self, call):
        if len(call.inputs) != 1:
            raise NotFollowedError("it is called with a state")
        return call.inputs[0]

    def _new_units(self):
        return [self.classes.new(cell.units) for cell in self.cells]

    def _even(self, kept, align):
        """Makes all cells keep the same number of units, a multiple."""
        out = self.calls[0].output
        places = self.places(out.size)
        left = max(1, *[int(kept.of(out)[at].sum()) for at in places])
        least = -(-left // align) * align
        return any([kept.keep_at_least(out, least, at) for at in places])


class Bidirectional(Recurrent):
    """Two recurrent layers, one of which reads backwards."""

    def layers(self):
        mode = self.operation.merge_mode
        if mode is None:
            raise NotFollowedError("it returns several tensors")
        return {
            "forward_layer.": self.operation.forward_layer,
            "backward_layer.": self.operation.backward_layer,
        }

    def merged(self, units):
        if self.operation.merge_mode == "concat":
            return np.concatenate(units)
        self.classes.unite(*units)
        return units[0]

    def places(self, size):
        if self.operation.merge_mode == "concat":
            return np.split(np.arange(size), 2)
        return [np.arange(size)] * 2

    def config(self, configs):
        config = copy.deepcopy(self.operation.get_config())
        for name, change in zip(
            ("layer", "backward_layer"), configs, strict=True
        ):
            config[name]["config"].update(change)
            # Otherwise it would be built for the old number of inputs.
            config[name].pop("build_config", None)
        return {name: config[name] for name in ("layer", "backward_layer")}


class _Cell:
    """The weights of a recurrent layer."""

    def __init__(self, layer, prefix):
        cell = getattr(layer, "cell", None)
        if not hasattr(cell, "recurrent_kernel"):
            raise NotFollowedError(f"its layers are {type(layer).__name__}")
        if layer.stateful:
            raise NotFollowedError("it keeps its state from batch to batch")
        if not is_elementwise(cell.activation) or not is_elementwise(
            getattr(cell, "recurrent_activation", cell.activation)
        ):
            raise NotFollowedError("its activation is not elementwise")
        self.cell = cell
        self.prefix = f"{prefix}cell."
        self.units = cell.units
        self.kernel = as_array(cell.kernel)
        self.recurrent = as_array(cell.recurrent_kernel)
        self.bias = None if cell.bias is None else as_array(cell.bias)
        self.gates = self.kernel.shape[1] // self.units

    def needed(self, read):
        """Returns the units that must be computed for units that are read."""
        reads = self._by_gate(self.recurrent != 0).any(1)
        while True:
            more = read | reads[:, read].any(1)
            if (more == read).all():
                return read
            read = more

    def reads(self, alive):
        """Returns the inputs that these units read."""
        return self._by_gate(self.kernel != 0).any(1)[:, alive].any(1)

    def smaller(self, stay, values, out):
        columns = np.tile(out, self.gates)
        bias = self.bias
        if values.any():
            added = values @ self.kernel.astype(float)
            if bias is None and added[columns].any():
                bias = self._no_bias()
            if bias is not None:
                bias = bias.astype(float)
                # GRUs may also have a bias for the state, in a second row.
                bias.reshape(-1, len(added))[0] += added
        weights = {
            "kernel": self.kernel[stay][:, columns],
            "recurrent_kernel": self.recurrent[out][:, columns],
        }
        if bias is not None:
            weights["bias"] = bias[..., columns]
        return Smaller(
            {"units": int(out.sum()), "use_bias": bias is not None},
            {self.prefix + name: array for name, array in weights.items()},
        )

    def parts(self, inputs, units, owner):
        columns = Part(np.tile(units, self.gates)[None], owner=owner)
        return [
            (self.cell.kernel, columns),
            (self.cell.recurrent_kernel, columns),
            (self.cell.recurrent_kernel, Part(units[:, None], owner=owner)),
            (self.cell.kernel, Part(inputs[:, None], False, owner)),
        ]

    def _by_gate(self, array):
        return array.reshape(len(array), self.gates, self.units)

    def _no_bias(self):
        columns = self.kernel.shape[1]
        twice = getattr(self.cell, "reset_after", False)
        return np.zeros((2, columns) if twice else columns)
