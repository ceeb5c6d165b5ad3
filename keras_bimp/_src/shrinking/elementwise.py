"""Elementwise operations, and operations that move channels."""

import numpy as np

from keras_bimp._src.shrinking.channel_rules import NotFollowedError
from keras_bimp._src.shrinking.channel_rules import Rule
from keras_bimp._src.shrinking.channel_rules import Smaller
from keras_bimp._src.shrinking.channel_rules import evaluate
from keras_bimp._src.shrinking.channel_rules import is_elementwise
from keras_bimp._src.shrinking.channels import Channels


class Passing(Rule):
    """Moves or pools over space only, so that constants do not change."""

    sized = False

    def forward(self, call):
        (x,) = call.inputs
        layer = self.operation
        if getattr(layer, "data_format", None) == "channels_first":
            raise NotFollowedError("it has channels-first data")
        if getattr(layer, "interpolation", None) not in (
            None,
            "nearest",
            "bilinear",
        ):
            raise NotFollowedError(
                f"its interpolation is '{layer.interpolation}'"
            )
        return Channels(x.numbers, x.constants)


class Reduction(Passing):
    """The mean or the maximum over positions."""

    def forward(self, call):
        if getattr(self.operation, "initial", None) is not None:
            raise NotFollowedError("it has an initial value")
        (shape,) = call.shapes
        axes = self.operation.axis
        axes = (axes,) if isinstance(axes, int) else axes
        over = {axis % len(shape) for axis in axes or range(len(shape))}
        if over & {0, len(shape) - 1}:
            raise NotFollowedError("it reduces over channels or examples")
        return super().forward(call)


class Elementwise(Rule):
    """An elementwise operation."""

    sized = False

    def forward(self, call):
        (x,), (shape,) = call.inputs, call.shapes
        args, kwargs = call.arguments
        if len(args) != 1 or any(v is not None for v in kwargs.values()):
            raise NotFollowedError("it is called with additional arguments")
        constants = evaluate(self.operation, [len(shape)], x.constants)
        return Channels(x.numbers, constants)


class Activation(Elementwise):
    """The layer `Activation`."""

    def forward(self, call):
        if not is_elementwise(self.operation.activation):
            raise NotFollowedError("its activation is not elementwise")
        return super().forward(call)


class ZeroPadding(Passing):
    """Zeros around an image: only channels of zeros stay constant."""

    def forward(self, call):
        x = super().forward(call)
        constants = np.where(x.constants == 0, 0.0, np.nan)
        return Channels(x.numbers, constants)


class Reshape(Rule):
    """A reshape whose last axis is a multiple, or a fraction, of the old one.

    `Flatten` repeats the channels for each position. A reshape to an image
    groups outputs of a dense layer into channels.
    """

    def forward(self, call):
        (x,), (shape,) = call.inputs, call.shapes
        target = self._target(shape)
        if None in shape[1:] or None in target or not x.size:
            raise NotFollowedError("the size of its input is not known")
        before, after = x.size, target[-1]
        if after % before == 0:
            times = after // before
            return Channels(
                np.tile(x.numbers, times), np.tile(x.constants, times)
            )
        if before % after:
            raise NotFollowedError("it splits channels")
        rows = x.numbers.reshape(-1, after)
        for row in rows[1:]:
            self.classes.unite(rows[0], row)
        constants = x.constants.reshape(-1, after)
        same = (constants == constants[0]).all(0)
        return Channels(rows[0], np.where(same, constants[0], np.nan))

    def backward(self, call):
        (x,), live = call.inputs, call.output.live
        if x.size >= len(live):
            x.read |= np.tile(live, x.size // len(live))
        else:
            x.read |= live.reshape(-1, x.size).any(0)

    def smaller(self, kept):
        (shape,) = self.calls[0].shapes
        *places, _ = self._target(shape)
        left = int(kept.of(self.calls[0].output).sum())
        return Smaller({"target_shape": (*places, left)})

    def _target(self, shape):
        target = self.operation.compute_output_shape(shape)
        return tuple(target[1:])


class Flatten(Reshape):
    """The layer `Flatten`."""

    def forward(self, call):
        if self.operation.data_format == "channels_first":
            raise NotFollowedError("it has channels-first data")
        return super().forward(call)

    def smaller(self, kept):
        return Smaller()


class Pad(Rule):
    """`keras.ops.pad`: zeros around an image, and new channels of zeros."""

    def forward(self, call):
        (x,), (shape,) = call.inputs, call.shapes
        args, kwargs = call.arguments
        width = list(self.operation.pad_width)
        if (
            self.operation.mode != "constant"
            or any(value not in (None, 0) for value in kwargs.values())
            or any(value not in (None, 0) for value in args[1:])
            or min(map(min, width)) < 0
        ):
            raise NotFollowedError("it pads with something other than zeros")
        if len(width) != len(shape):
            width = width * len(shape)
        *space, (self.before, self.after) = width
        constants = x.constants
        if any(map(any, space)):
            constants = np.where(constants == 0, 0.0, np.nan)
        both = self.before + self.after
        new = self.classes.new(both)
        self.space = space
        return Channels(
            np.concatenate([new[: self.before], x.numbers, new[self.before :]]),
            np.concatenate(
                [np.zeros(self.before), constants, np.zeros(self.after)]
            ),
        )

    def backward(self, call):
        (x,) = call.inputs
        x.read |= call.output.live[self.before :][: x.size]

    def smaller(self, kept):
        stay = kept.of(self.calls[0].output)
        (x,) = self.calls[0].inputs
        before = int(stay[: self.before].sum())
        after = int(stay[self.before + x.size :].sum())
        return Smaller({"pad_width": (*self.space, (before, after))})
