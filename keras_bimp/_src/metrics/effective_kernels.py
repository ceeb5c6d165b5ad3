"""Effective kernels of a model, with masks, quantization and LoRA applied."""

import math

import keras

from keras_bimp._src.backends import count_nonzero
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.keras_internals.quantization import float_kernels
from keras_bimp._src.masking import masked_layers


class EffectiveKernels:
    """The kernels that a model would compute with after `strip`.

    Args:
        model: A built model: plain, wrapped or stripped.
    """

    def __init__(self, model: keras.Layer):
        self._masked = {
            id(kernel.variable): (mask, rule)
            for masked in masked_layers(model)
            for kernel, mask, rule in zip(
                masked.kernels, masked.masks, masked.rules, strict=True
            )
        }
        self._computed = {
            id(computed.variable): computed
            for layer in layers_in(model)
            for computed in float_kernels(layer)
        }

    def value(self, variable: keras.Variable):
        """Returns the effective value of a kernel."""
        if id(variable) in self._computed:
            return self._computed[id(variable)].compute()
        if id(variable) not in self._masked:
            return variable.value
        mask, rule = self._masked[id(variable)]
        return rule.final_kernel(variable.value, mask.value)

    def size(self, variable: keras.Variable) -> int:
        """Returns the number of its entries, not of stored codes."""
        computed = self._computed.get(id(variable), variable)
        return math.prod(computed.shape)

    def nonzero(self, variable: keras.Variable) -> int:
        """Returns the number of its nonzero entries."""
        return count_nonzero(self.value(variable))
