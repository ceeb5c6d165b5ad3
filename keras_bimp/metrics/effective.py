"""What the kernels of a model come to under their masks."""

import keras

from keras_bimp.backends import count_nonzero
from keras_bimp.masking import masked_layers


class EffectiveKernels:
    """The kernels that a model would have after `strip`.

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

    def value(self, variable: keras.Variable):
        """The tensor that a kernel comes to."""
        if id(variable) not in self._masked:
            return variable.value
        mask, rule = self._masked[id(variable)]
        return rule.final_kernel(variable.value, mask.value)

    def nonzero(self, variable: keras.Variable) -> int:
        """How many of its entries are not 0."""
        return count_nonzero(self.value(variable))
