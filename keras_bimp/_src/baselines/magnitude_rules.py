"""Mask rules that choose weights by magnitude."""

import math

import keras
from keras import ops

from keras_bimp._src.backends import where_kept
from keras_bimp._src.baselines.thresholds import kth_smallest
from keras_bimp._src.baselines.thresholds import smallest
from keras_bimp._src.checks import check_integer
from keras_bimp._src.checks import check_rate
from keras_bimp._src.checks import check_sparsity
from keras_bimp._src.masking import Rule


def _straight_through(kernel, value):
    """Use `value` in the forward pass; pass the gradient to the kernel."""
    return kernel + ops.stop_gradient(value - kernel)


@keras.saving.register_keras_serializable(package="keras_bimp")
class Soft(Rule):
    """Rule in which pruned weights count as 0 but keep their value.

    They get no gradient, but weight decay and momentum continue, and they may
    come back.

    Example:

    >>> rule = keras_bimp.baselines.Soft()
    >>> kernel, mask = np.array([3.0, 4.0]), np.array([True, False])
    >>> keras.ops.convert_to_numpy(rule.effective_kernel(kernel, mask)).tolist()
    [3.0, 0.0]

    Reference:

    - Zhu and Gupta, "To prune, or not to prune", 2017.
    """

    def effective_kernel(self, kernel, mask):
        return where_kept(mask, kernel)


@keras.saving.register_keras_serializable(package="keras_bimp")
class StraightThrough(Rule):
    """Rule in which pruned weights count as 0 but still get the gradient.

    With `every`, the smallest weights of all kernels are masked again every
    `every` steps, as many as the last pruning masked.

    Args:
        every: Integer >= 1, or `None` to leave the masks to callbacks.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value that cannot be.

    Example:

    >>> rule = keras_bimp.baselines.StraightThrough(every=16)
    >>> kernel, mask = np.array([3.0, 4.0]), np.array([True, False])
    >>> keras.ops.convert_to_numpy(rule.effective_kernel(kernel, mask)).tolist()
    [3.0, 0.0]

    Reference:

    - Lin et al., "Dynamic Model Pruning with Feedback", ICLR 2020.
    """

    def __init__(self, every: int | None = None):
        if every is not None:
            check_integer("every", every, minimum=1)
        self.every = every

    def build(self, masked, kernel):
        if self.every is not None:
            self.step = counter(masked, kernel, "step")
            self.pruned = counter(masked, kernel, "pruned")

    def effective_kernel(self, kernel, mask):
        return _straight_through(kernel, where_kept(mask, kernel))

    def final_kernel(self, kernel, mask):
        return where_kept(mask, kernel)

    @classmethod
    def effective_kernels(cls, rules, kernels, masks, training):
        first = rules[0]
        if training and first.every is not None:
            due = ops.logical_and(
                ops.equal(first.step % first.every, 0),
                ops.greater(first.pruned, 0),
            )
            magnitudes = [ops.abs(ops.stop_gradient(k)) for k in kernels]
            # Search only if due.
            pruned = ops.cond(
                due,
                lambda: smallest(magnitudes, first.pruned.value),
                lambda: [ops.logical_not(mask.value) for mask in masks],
            )
            for mask, chosen in zip(masks, pruned, strict=True):
                mask.assign(ops.logical_not(chosen))
            first.step.assign(first.step + 1)
        return super().effective_kernels(rules, kernels, masks, training)

    def get_config(self):
        return {"every": self.every}


@keras.saving.register_keras_serializable(package="keras_bimp")
class TopWeights(Rule):
    """Rule that keeps the largest weights in every forward pass.

    All weights get the gradient.

    Args:
        target_sparsity: Float in [0, 1): `int(target * weights)` are pruned.

    Raises:
        ValueError: If an argument has a value that cannot be.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    >>> model.set_weights([np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros(2)])
    >>> rule = keras_bimp.baselines.TopWeights(0.5)
    >>> wrapped = keras_bimp.wrap(model, rule=rule)
    >>> keras.ops.convert_to_numpy(wrapped(np.ones((1, 2)))).round(4).tolist()
    [[3.0, 4.0]]

    Reference:

    - Wortsman, Farhadi, Rastegari, "Discovering Neural Wirings", NeurIPS 2019.
    """

    def __init__(self, target_sparsity: float):
        self.target_sparsity = check_sparsity(
            "target_sparsity", target_sparsity
        )

    def effective_kernel(self, kernel, mask):
        return _straight_through(kernel, where_kept(mask, kernel))

    def final_kernel(self, kernel, mask):
        return where_kept(mask, kernel)

    @classmethod
    def effective_kernels(cls, rules, kernels, masks, training):
        magnitudes = [ops.abs(ops.stop_gradient(k)) for k in kernels]
        pruned = int(rules[0].target_sparsity * _count(kernels))
        threshold = kth_smallest(magnitudes, pruned)
        found = [magnitude > threshold for magnitude in magnitudes]
        if training:
            for mask, value in zip(masks, found, strict=True):
                mask.assign(value)
        return [
            rule.effective_kernel(kernel, value)
            for rule, kernel, value in zip(rules, kernels, found, strict=True)
        ]

    def get_config(self):
        return {"target_sparsity": self.target_sparsity}


@keras.saving.register_keras_serializable(package="keras_bimp")
class DecayOutsideTop(Soft):
    """Dense rule with weight decay on all but the largest weights.

    Args:
        target_sparsity: Float in [0, 1): `int((1 - target) * weights)` do not
            decay.
        weight_decay: Float >= 0, coupled: this share of a weight is added to
            its gradient. The kernels must not have another regularizer.

    Raises:
        ValueError: If an argument has a value that cannot be.

    Example:

    >>> rule = keras_bimp.baselines.DecayOutsideTop(0.5, weight_decay=0.1)
    >>> kernel = np.array([1.0, 2.0, 3.0, 4.0])
    >>> (loss,) = rule.losses([rule], [kernel])  # 0.1 / 2 * (1 + 4)
    >>> round(float(loss), 4)
    0.25

    Reference:

    - Carreira-Perpinan and Idelbayev, "Learning-Compression Algorithms for
      Neural Net Pruning", CVPR 2018.
    """

    def __init__(self, target_sparsity: float, weight_decay: float):
        self.target_sparsity = check_sparsity(
            "target_sparsity", target_sparsity
        )
        self.weight_decay = check_rate("weight_decay", weight_decay)

    @classmethod
    def losses(cls, rules, kernels):
        first, total = rules[0], _count(kernels)
        outside = total - int((1 - first.target_sparsity) * total)
        magnitudes = [ops.abs(ops.stop_gradient(k)) for k in kernels]
        threshold = kth_smallest(magnitudes, outside)
        return [
            first.weight_decay
            / 2
            * ops.sum(ops.square(where_kept(magnitude <= threshold, kernel)))
            for kernel, magnitude in zip(kernels, magnitudes, strict=True)
        ]

    def get_config(self):
        return {
            "target_sparsity": self.target_sparsity,
            "weight_decay": self.weight_decay,
        }


def _count(kernels):
    return sum(math.prod(kernel.shape) for kernel in kernels)


def counter(masked, kernel, name):
    """Create an integer variable of a `Masked`, initially 0."""
    return masked.add_weight(
        shape=(),
        initializer="zeros",
        dtype="int32",
        trainable=False,
        autocast=False,
        name=variable_name(kernel, name),
    )


def variable_name(kernel, name):
    """Return the name of a variable that a rule adds for a kernel."""
    return f"{kernel.path.replace('/', '_')}_{name}"
