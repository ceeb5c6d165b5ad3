"""Global sparse momentum, a variant of SGD."""

import math

import keras
from keras import ops

from keras_bimp._src.baselines.thresholds import kth_smallest
from keras_bimp._src.checks import check_rate
from keras_bimp._src.checks import check_sparsity
from keras_bimp._src.keras_internals.optimizer_state import ChangesGradients


@keras.saving.register_keras_serializable(package="keras_bimp")
class GlobalSparseMomentum(ChangesGradients, keras.optimizers.SGD):
    """SGD in which only the most important weights get their gradient.

    These are the `int((1 - target) * weights)` largest `|weight * gradient|`
    of the step, across all kernels; in a `fit` with the callbacks of `gsm`,
    across all masked kernels. All weights have decay and momentum, so the
    others go to 0.

    Args:
        target_sparsity: Float in [0, 1).
        learning_rate: See `keras.optimizers.SGD`.
        momentum: See `keras.optimizers.SGD`.
        nesterov: See `keras.optimizers.SGD`.
        kernel_decay: Float >= 0, coupled weight decay of the kernels: this
            share of a weight is added to its gradient. The kernels must not
            have another regularizer.
        name: See `keras.optimizers.SGD`.
        **kwargs: See `keras.optimizers.SGD`.

    Raises:
        ValueError: If an argument has an invalid value.

    Example:

    >>> optimizer = keras_bimp.baselines.GlobalSparseMomentum(0.5, 1.0)
    >>> start = np.array([[1.0, 2.0]], "float32")
    >>> kernel = keras.Variable(start, name="kernel")
    >>> optimizer.apply([keras.ops.array([[0.5, 0.5]])], [kernel])
    >>> keras.ops.convert_to_numpy(kernel).tolist()
    [[1.0, 1.5]]

    Reference:

    - Ding et al., "Global Sparse Momentum SGD for Pruning Very Deep Neural
      Networks", NeurIPS 2019.
    """

    def __init__(
        self,
        target_sparsity: float,
        learning_rate=0.01,
        momentum: float = 0.9,
        nesterov: bool = False,
        kernel_decay: float = 0.0,
        name: str = "global_sparse_momentum",
        **kwargs,
    ):
        super().__init__(
            learning_rate, momentum, nesterov=nesterov, name=name, **kwargs
        )
        self.target_sparsity = check_sparsity(
            "target_sparsity", target_sparsity
        )
        self.kernel_decay = check_rate("kernel_decay", kernel_decay)
        self._kernels = None

    def choose_among(self, kernels: list[keras.Variable]) -> bool:
        """Set the kernels to choose among and decay.

        Returns:
            Whether they changed, so that an already compiled train step must
            be recompiled.
        """
        before = self._kernels
        # Not a list, because lists of an optimizer hold its slots.
        self._kernels = frozenset(map(id, kernels))
        return before != self._kernels

    def changed(self, grads: list, variables: list) -> list:
        """Return the gradients, with all but the most important set to 0."""
        chosen = [
            i
            for i, variable in enumerate(variables)
            if self._is_chosen(variable)
        ]
        kernels = [variables[i].value for i in chosen]
        importance = [
            ops.abs(kernel * grads[i])
            for i, kernel in zip(chosen, kernels, strict=True)
        ]
        total = sum(math.prod(kernel.shape) for kernel in kernels)
        active = int((1 - self.target_sparsity) * total)
        threshold = kth_smallest(importance, total - active)
        for i, kernel, score in zip(chosen, kernels, importance, strict=True):
            kept = ops.where(
                score > threshold, grads[i], ops.zeros((), grads[i].dtype)
            )
            grads[i] = kept + self.kernel_decay * kernel
        return grads

    def _is_chosen(self, variable):
        if self._kernels is None:
            return len(variable.shape) >= 2 and variable.name.endswith("kernel")
        return id(variable) in self._kernels

    def get_config(self):
        return {
            **super().get_config(),
            "target_sparsity": self.target_sparsity,
            "kernel_decay": self.kernel_decay,
        }
