"""Depthwise convolutions: each output reads one input."""

import numpy as np

from keras_bimp._src.backends import as_array
from keras_bimp._src.selection import Part
from keras_bimp._src.shrinking.channel_rules import NotFollowedError
from keras_bimp._src.shrinking.channel_rules import Rule
from keras_bimp._src.shrinking.channel_rules import Smaller
from keras_bimp._src.shrinking.channel_rules import evaluate
from keras_bimp._src.shrinking.channel_rules import is_elementwise
from keras_bimp._src.shrinking.channels import Channels


class Depthwise(Rule):
    """A depthwise convolution: an input is removed with its outputs."""

    def __init__(self, operation, classes):
        super().__init__(operation, classes)
        if operation.data_format == "channels_first":
            raise NotFollowedError("it has channels-first data")
        if not is_elementwise(operation.activation):
            raise NotFollowedError("its activation is not elementwise")
        self.kernel = as_array(operation.kernel)
        *self.space, self.inputs, self.multiplier = self.kernel.shape
        has_bias = operation.bias is not None
        self.bias = as_array(operation.bias) if has_bias else None
        taps = self.kernel.reshape(-1, self.inputs * self.multiplier)
        self.nonzero = (taps != 0).any(0)
        self.sums = taps.sum(0, float)

    def forward(self, call):
        (x,) = call.inputs
        if x.size != self.inputs:
            raise NotFollowedError("its inputs have an unusual shape")
        constants = x.constants.repeat(self.multiplier)
        # Along a padded border, a constant contributes less.
        pads = self.operation.padding != "valid" and np.prod(self.space) > 1
        moving = np.isnan(constants) | (pads & (constants != 0))
        sums = np.where(moving, np.nan, constants) * self.sums
        sums = np.where(self.nonzero, sums, 0.0)
        if self.bias is not None:
            sums = sums + self.bias
        return Channels(
            x.numbers.repeat(self.multiplier),
            evaluate(self.operation.activation, [2], sums),
        )

    def backward(self, call):
        (x,) = call.inputs
        reads = self.nonzero & call.output.live
        x.read |= reads.reshape(-1, self.multiplier).any(1)

    def smaller(self, kept):
        stay = kept.of(self.calls[0].inputs[0])
        weights = {"kernel": self.kernel[..., stay, :]}
        if self.bias is not None:
            weights["bias"] = self.bias[stay.repeat(self.multiplier)]
        return Smaller(weights=weights)

    def filters(self):
        return [(self.operation.kernel, self.calls[0].output.numbers)]

    def parts(self):
        numbers = self.calls[0].output.numbers.reshape(-1, self.multiplier)
        shape = (1,) * len(self.space) + numbers.shape
        part = Part(
            numbers.reshape(shape), False, self.operation.name, "filters"
        )
        return [(self.operation.kernel, part)]
