"""Attention: removes heads that return the same for every input."""

import keras
import numpy as np
from keras import tree

from keras_bimp._src.backends import as_array
from keras_bimp._src.keras_internals.layers import parts_of_attention
from keras_bimp._src.selection import Part
from keras_bimp._src.shrinking.channel_rules import NotFollowedError
from keras_bimp._src.shrinking.channel_rules import Rule
from keras_bimp._src.shrinking.channel_rules import Smaller
from keras_bimp._src.shrinking.channels import Channels


class MultiHeadAttention(Rule):
    """Multi-head attention. All channels that it reads and returns stay.

    A head is removed if the output ignores it, or if all its values equal the
    bias: attention weights sum to 1, so the head returns the bias.

    Attributes:
        heads: The numbers of the heads, or of the groups of heads that are
            removed together.
    """

    def __init__(self, operation, classes):
        super().__init__(operation, classes)
        self.dense = parts_of_attention(operation)
        self.kernels = {
            name: as_array(dense.kernel) for name, dense in self.dense.items()
        }
        if self.kernels["output"].ndim != 3:
            raise NotFollowedError("it returns several axes")
        self.heads = classes.new(self.count())

    def count(self) -> int:
        """Returns the number of heads that can be removed independently."""
        return len(self.kernels["output"])

    def of_head(self, name: str) -> np.ndarray | None:
        """Returns which of `heads` each head of a dense layer belongs to."""
        return np.arange(self.count())

    def forward(self, call):
        if _differs_by_head(call):
            raise NotFollowedError("its mask differs from head to head")
        # The width of the output depends on the kernel, not on the call.
        size = self.kernels["output"].shape[-1]
        numbers = self.classes.new(size)
        why = f"'{self.operation.name}' reads all of them"
        for x in call.inputs:
            self.classes.keep_whole(x.numbers, why)
        self.classes.keep_whole(
            numbers, f"'{self.operation.name}' returns all of them"
        )
        return Channels(numbers)

    def backward(self, call):
        for x in call.inputs:
            x.read[:] = True

    def smaller(self, kept):
        stay = self._stay()
        weights = {}
        for name, dense in self.dense.items():
            of = self.of_head(name)
            here = slice(None) if of is None else stay[of]
            kernel, axis = self.kernels[name], 0 if name == "output" else 1
            weights[f"_{name}_dense.kernel"] = (
                kernel[:, here] if axis else kernel[here]
            )
            if dense.bias is not None:
                bias = as_array(dense.bias)
                weights[f"_{name}_dense.bias"] = bias[here] if axis else bias
        self._move_biases(weights, stay)
        return Smaller(self.config(int(stay.sum())), weights)

    def config(self, heads: int) -> dict:
        """Returns the changes in the config for a number of heads."""
        return {"num_heads": heads}

    def parts(self):
        found = []
        for name, dense in self.dense.items():
            of = self.of_head(name)
            if of is None:
                continue
            numbers = self.heads[of]
            shape = (-1, 1, 1) if name == "output" else (1, -1, 1)
            found.append(
                (
                    dense.kernel,
                    Part(
                        numbers.reshape(shape),
                        owner=self.operation.name,
                        kind="heads",
                    ),
                )
            )
        return found

    def _stay(self):
        """Returns which heads stay, at least one."""
        gone = ~self._in_use("output", (1, 2))
        if "gate" not in self.dense:
            gone |= ~self._in_use("value", (0, 2))
        stay = ~gone
        stay[0] |= not stay.any()
        return stay

    def _in_use(self, name, axes):
        """Returns which of `heads` have nonzero weights."""
        found = np.zeros(self.count(), bool)
        of, nonzero = self.of_head(name), self.kernels[name].any(axes)
        if of is None:
            return np.ones_like(found)
        np.logical_or.at(found, of, nonzero)
        return found

    def _move_biases(self, weights, stay):
        """Adds the constant outputs of removed heads to the output's bias."""
        outputs, value = self.kernels["output"], self.dense["value"]
        if value.bias is None or "gate" in self.dense:
            return
        bias = as_array(value.bias).astype(float)
        emitted = bias[self._value_of_query()]
        gone = ~stay[self.of_head("output")]
        weights["_output_dense.bias"] = as_array(
            self.dense["output"].bias
        ) + np.einsum("hd,hdm->m", emitted[gone], outputs[gone].astype(float))

    def _value_of_query(self):
        """Returns the value head that each query head attends to."""
        return np.arange(len(self.kernels["output"]))


class GroupedQueryAttention(MultiHeadAttention):
    """Grouped-query attention: several query heads share a key-value head.

    A key-value head is removed with all its query heads. If there is only one
    key-value head, query heads are removed.
    """

    def count(self):
        layer = self.operation
        if layer.num_key_value_heads > 1:
            return layer.num_key_value_heads
        return layer.num_query_heads

    def of_head(self, name):
        layer = self.operation
        several = layer.num_key_value_heads > 1
        if name in ("key", "value"):
            return np.arange(layer.num_key_value_heads) if several else None
        heads = np.arange(self.count())
        return heads.repeat(layer.num_repeats) if several else heads

    def config(self, heads):
        layer = self.operation
        if layer.num_key_value_heads == 1:
            return {"num_query_heads": heads}
        return {
            "num_query_heads": heads * layer.num_repeats,
            "num_key_value_heads": heads,
        }

    def _value_of_query(self):
        layer = self.operation
        return np.arange(layer.num_key_value_heads).repeat(layer.num_repeats)


def _differs_by_head(call):
    """Whether an attention mask has an axis for the heads."""
    args, kwargs = call.arguments
    rank = len(call.shapes[0])
    given = tree.flatten([args[3:], kwargs.get("attention_mask")])
    return any(
        isinstance(x, keras.KerasTensor)
        and len(x.shape) > rank
        and x.shape[1] != 1
        for x in given
    )
