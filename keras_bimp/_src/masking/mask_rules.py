"""Mask rules: how a layer uses its kernel and mask."""

import keras

from keras_bimp._src.backends import where_kept


class Rule:
    """Computes the effective kernel of a layer from its kernel and mask.

    `Masked` makes one copy of the rule per kernel, so a rule can have its own
    variables. Subclasses override `effective_kernel` and any other method.
    Register a subclass with `keras.saving.register_keras_serializable`, or it
    cannot be saved during training.

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
        hard: Whether pruning sets the pruned raw weights and their optimizer
            slots to 0 for good.
    """

    hard = False

    def build(self, masked: "keras.Layer", kernel: keras.Variable) -> None:
        """Create the rule's own variables with `masked.add_weight`."""

    def effective_kernel(self, kernel, mask):
        """Return the tensor that the layer computes with.

        Args:
            kernel: The raw kernel, a tensor.
            mask: Boolean tensor of the same shape; True means kept.
        """
        raise NotImplementedError(
            f"Rule '{type(self).__name__}' must override "
            "`effective_kernel(self, kernel, mask)`."
        )

    @classmethod
    def effective_kernels(
        cls, rules: list["Rule"], kernels: list, masks: list, training: bool
    ) -> list:
        """Return the effective kernels of one `Masked`.

        Override this in rules that compare weights across kernels. The default
        calls `effective_kernel` of each rule.

        Args:
            rules: One rule per kernel.
            kernels: The raw kernels, tensors.
            masks: Their masks, boolean `keras.Variable`s.
            training: Whether the call is a training step.
        """
        del training
        return [
            rule.effective_kernel(kernel, mask.value)
            for rule, kernel, mask in zip(rules, kernels, masks, strict=True)
        ]

    @classmethod
    def losses(cls, rules: list["Rule"], kernels: list) -> list:
        """Return the loss of each kernel of one `Masked`, or `None`."""
        del kernels
        return [rule.loss() for rule in rules]

    def loss(self):
        """Return a scalar to add to the training loss, or None."""
        return None

    def final_kernel(self, kernel, mask):
        """Return the kernel that `strip` writes into the plain model."""
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
