"""Layers with one parameter per channel: normalization, PReLU."""

import functools

import numpy as np

from keras_bimp._src.backends import as_array
from keras_bimp._src.shrinking.channel_rules import NotFollowedError
from keras_bimp._src.shrinking.channel_rules import Rule
from keras_bimp._src.shrinking.channel_rules import Smaller
from keras_bimp._src.shrinking.channel_rules import evaluate
from keras_bimp._src.shrinking.channels import Channels


class Scaling(Rule):
    """Base class of layers with parameters along the last axis.

    Attributes:
        parameters: The attributes that hold them, which may be `None`.
    """

    parameters = ()

    def forward(self, call):
        (x,), (shape,) = call.inputs, call.shapes
        axis = getattr(self.operation, "axis", -1)
        if axis not in (-1, len(shape) - 1):
            raise NotFollowedError("its axis is not the last one")
        layer = functools.partial(self.operation, training=False)
        return Channels(x.numbers, evaluate(layer, [len(shape)], x.constants))

    def smaller(self, kept):
        stay = kept.of(self.calls[0].output)
        return Smaller(
            weights={
                name: as_array(getattr(self.operation, name))[..., stay]
                for name in self.parameters
                if getattr(self.operation, name) is not None
            }
        )


class BatchNormalization(Scaling):
    """Batch normalization at inference."""

    parameters = ("gamma", "beta", "moving_mean", "moving_variance")


class PReLU(Scaling):
    """A slope per channel, or per channel and position."""

    parameters = ("alpha",)


class GroupNormalization(Scaling):
    """Groups of channels share their statistics: whole groups go or stay."""

    parameters = ("gamma", "beta")

    def forward(self, call):
        out = super().forward(call)
        (x,) = call.inputs
        whole = self._whole(self._split(x.known).all(1), x)
        constants = np.where(whole, out.constants, np.nan)
        return Channels(x.numbers, constants)

    def backward(self, call):
        (x,) = call.inputs
        x.read |= self._whole(self._split(call.output.live).any(1), x)

    def demand(self, kept):
        (x,) = self.calls[0].inputs
        some = self._split(kept.of(x)).any(1)
        return kept.keep(x, self._whole(some, x))

    def smaller(self, kept):
        made = super().smaller(kept)
        stay = self._split(kept.of(self.calls[0].output)).any(1)
        return Smaller({"groups": int(stay.sum())}, made.weights)

    def together(self):
        (x,) = self.calls[0].inputs
        return list(self._split(x.numbers))

    def _split(self, channels):
        return channels.reshape(self.operation.groups, -1)

    def _whole(self, groups, x):
        return groups.repeat(x.size // self.operation.groups)
