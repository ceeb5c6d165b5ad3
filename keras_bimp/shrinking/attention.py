"""Attention: heads that return the same for every input go."""

import numpy as np

from keras_bimp.backends import as_array
from keras_bimp.shrinking.channels import Channels
from keras_bimp.shrinking.rules import NotFollowedError
from keras_bimp.shrinking.rules import Rule
from keras_bimp.shrinking.rules import Smaller


class MultiHeadAttention(Rule):
    """Multi-head attention. All that it reads and returns stays.

    A head goes if the output takes no notice of it, or if all its values are
    the bias: attention sums to 1, so that the bias is what it returns.
    """

    def __init__(self, operation, classes):
        super().__init__(operation, classes)
        if getattr(operation, "_use_gate", False):
            raise NotFollowedError("it gates its heads")
        if len(operation.output_dense.kernel.shape) != 3:
            raise NotFollowedError("it returns several axes")

    def forward(self, call):
        # What it returns is as wide as the kernel says, whatever the call.
        size = self.operation.output_dense.kernel.shape[-1]
        numbers = self.classes.new(size)
        for x in call.inputs:
            self.classes.keep_whole(x.numbers)
        self.classes.keep_whole(numbers)
        return Channels(numbers)

    def backward(self, call):
        for x in call.inputs:
            x.read[:] = True

    def smaller(self, kept):
        layer = self.operation
        outputs = as_array(layer.output_dense.kernel)
        values = as_array(layer.value_dense.kernel)
        unread = ~outputs.reshape(len(outputs), -1).any(1)
        same = ~values.any((0, 2))
        stay = ~(unread | same)
        stay[0] |= not stay.any()
        weights = {"output_dense.kernel": outputs[stay]}
        for name in ("query_dense", "key_dense", "value_dense"):
            kernel = as_array(getattr(layer, name).kernel)
            weights[f"{name}.kernel"] = kernel[:, stay]
        if layer.use_bias:
            for name in ("query_dense", "key_dense", "value_dense"):
                bias = as_array(getattr(layer, name).bias)
                weights[f"{name}.bias"] = bias[stay]
            emitted = as_array(layer.value_dense.bias)[~stay].astype(float)
            weights["output_dense.bias"] = as_array(
                layer.output_dense.bias
            ) + np.einsum("hd,hd...->...", emitted, outputs[~stay])
        return Smaller({"num_heads": int(stay.sum())}, weights)
