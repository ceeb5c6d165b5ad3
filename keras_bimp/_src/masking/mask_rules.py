"""Mask rules: what a masked kernel computes with."""

import keras

from keras_bimp._src.backends import where_kept


class Rule:
    """What one kernel computes with, given its mask.

    `Masked` makes a copy of the rule for every kernel, so a rule may keep
    variables of its own. A subclass overrides `effective_kernel`, and whatever
    else it needs; it must be registered with
    `keras.saving.register_keras_serializable` to be saved in mid-training.

    Example:

    ```python
    @keras.saving.register_keras_serializable(package="my_package")
    class SoftThreshold(keras_bimp.masking.Rule):
        def build(self, masked, kernel):
            self.threshold = masked.add_weight(shape=(), initializer="zeros")

        def effective_kernel(self, kernel, mask):
            shrunk = ops.relu(ops.abs(kernel) - self.threshold)
            return ops.sign(kernel) * ops.where(mask, shrunk, 0.0)
    ```

    Attributes:
        hard: Whether a pruning sets the pruned raw weights, and what the
            optimizer remembers of them, to 0 for good.
    """

    hard = False

    def build(self, masked: "keras.Layer", kernel: keras.Variable) -> None:
        """Creates the rule's own variables with `masked.add_weight`."""

    def effective_kernel(self, kernel, mask):
        """Returns what the layer computes with, a tensor of kernel's shape.

        Args:
            kernel: The raw kernel, a tensor.
            mask: Boolean tensor of the same shape, True = kept.
        """
        raise NotImplementedError(
            f"Rule '{type(self).__name__}' must override "
            "`effective_kernel(self, kernel, mask)`."
        )

    @classmethod
    def effective_kernels(
        cls, rules: list["Rule"], kernels: list, masks: list, training: bool
    ) -> list:
        """What all kernels of one `Masked` compute with, together.

        For rules that choose among the weights of all kernels at once. The
        default asks each rule for its own.

        Args:
            rules: One rule per kernel.
            kernels: The raw kernels, tensors.
            masks: Their masks, boolean `keras.Variable`s.
            training: Whether the call is a step of training.
        """
        del training
        return [
            rule.effective_kernel(kernel, mask.value)
            for rule, kernel, mask in zip(rules, kernels, masks, strict=True)
        ]

    @classmethod
    def losses(cls, rules: list["Rule"], kernels: list) -> list:
        """The losses of all kernels of one `Masked`, `None` where is none."""
        del kernels
        return [rule.loss() for rule in rules]

    def loss(self):
        """Returns a scalar to add to the training loss, or None."""
        return None

    def final_kernel(self, kernel, mask):
        """Returns what `strip` writes into the plain model."""
        return self.effective_kernel(kernel, mask)

    def get_config(self) -> dict:
        return {}

    @classmethod
    def from_config(cls, config: dict) -> "Rule":
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_bimp")
class Hard(Rule):
    """Hard pruning: a pruned weight is 0 and gets no gradient.

    Example:

    >>> rule = keras_bimp.masking.Hard()
    >>> kernel, mask = np.array([3.0, np.nan]), np.array([True, False])
    >>> keras.ops.convert_to_numpy(rule.effective_kernel(kernel, mask)).tolist()
    [3.0, 0.0]
    """

    hard = True

    def effective_kernel(self, kernel, mask):
        return where_kept(mask, kernel)
