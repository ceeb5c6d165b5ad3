"""What kernels compute with in the pruning-stable methods."""

import math
import numbers

import keras
import numpy as np
from keras import ops

from keras_bimp.baselines.thresholds import kth_smallest
from keras_bimp.baselines.thresholds import smallest
from keras_bimp.checks import check_integer
from keras_bimp.checks import check_positive
from keras_bimp.checks import check_rate
from keras_bimp.checks import check_sparsity
from keras_bimp.masking import Rule


def _masked(kernel, mask):
    return ops.where(mask, kernel, ops.zeros((), kernel.dtype))


def _straight_through(kernel, value):
    """Computes with `value`; the gradient goes to the whole kernel."""
    return kernel + ops.stop_gradient(value - kernel)


@keras.saving.register_keras_serializable(package="keras_bimp")
class Soft(Rule):
    """A pruned weight counts as 0 but keeps its value, and may come back.

    It gets no gradient; weight decay and momentum go on.

    Reference:

    - Zhu and Gupta, "To prune, or not to prune", 2017.
    """

    def effective_kernel(self, kernel, mask):
        return _masked(kernel, mask)


@keras.saving.register_keras_serializable(package="keras_bimp")
class StraightThrough(Rule):
    """A pruned weight counts as 0 but gets the gradient as if it did not.

    With `every`, the smallest weights of all kernels are masked anew after
    every so many steps, as many as the last pruning masked.

    Args:
        every: Integer >= 1, or `None` to leave the masks to callbacks.

    Reference:

    - Lin et al., "Dynamic Model Pruning with Feedback", ICLR 2020.
    """

    def __init__(self, every: int | None = None):
        if every is not None:
            check_integer("every", every, minimum=1)
        self.every = every

    def build(self, masked, kernel):
        if self.every is not None:
            self.step = _counter(masked, kernel, "step")
            self.pruned = _counter(masked, kernel, "pruned")

    def effective_kernel(self, kernel, mask):
        return _straight_through(kernel, _masked(kernel, mask))

    def final_kernel(self, kernel, mask):
        return _masked(kernel, mask)

    @classmethod
    def effective_kernels(cls, rules, kernels, masks, training):
        first = rules[0]
        if training and first.every is not None:
            due = ops.logical_and(
                ops.equal(first.step % first.every, 0),
                ops.greater(first.pruned, 0),
            )
            magnitudes = [ops.abs(ops.stop_gradient(k)) for k in kernels]
            # Nothing is searched for where nothing is due.
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
    """The largest weights of all kernels, found anew in every forward pass.

    The gradient goes to all weights.

    Args:
        target_sparsity: Float in [0, 1): `int(target * weights)` are pruned.

    Reference:

    - Wortsman, Farhadi, Rastegari, "Discovering Neural Wirings", NeurIPS 2019.
    """

    def __init__(self, target_sparsity: float):
        self.target_sparsity = check_sparsity(
            "target_sparsity", target_sparsity
        )

    def effective_kernel(self, kernel, mask):
        return _straight_through(kernel, _masked(kernel, mask))

    def final_kernel(self, kernel, mask):
        return _masked(kernel, mask)

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
    """Dense; weight decay acts on all but the largest weights of all kernels.

    Args:
        target_sparsity: Float in [0, 1): `int((1 - target) * weights)` do not
            decay.
        weight_decay: Float >= 0, coupled: as much of a weight is added to its
            gradient. The kernels must have no regularizer beside it.

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
            * ops.sum(ops.square(_masked(kernel, magnitude <= threshold)))
            for kernel, magnitude in zip(kernels, magnitudes, strict=True)
        ]

    def get_config(self):
        return {
            "target_sparsity": self.target_sparsity,
            "weight_decay": self.weight_decay,
        }


@keras.saving.register_keras_serializable(package="keras_bimp")
class SoftThreshold(Rule):
    """Shrinks all weights by a threshold that is learned, one per kernel.

    ```python
    effective = sign(kernel) * relu(abs(kernel) - sigmoid(s))
    ```

    Args:
        s_init: Float, where `s` starts.
        weight_decay: Float >= 0, of `s`: coupled, as that of the kernels.

    Reference:

    - Kusupati et al., "Soft Threshold Weight Reparameterization for Learnable
      Sparsity", ICML 2020.
    """

    def __init__(self, s_init: float, weight_decay: float = 0.0):
        self.s_init = _check_finite("s_init", s_init)
        self.weight_decay = check_rate("weight_decay", weight_decay)

    def build(self, masked, kernel):
        regularizer = None
        if self.weight_decay:
            regularizer = keras.regularizers.L2(self.weight_decay / 2)
        self.s = masked.add_weight(
            shape=(),
            initializer=_constant(self.s_init),
            dtype=kernel.dtype,
            autocast=False,
            regularizer=regularizer,
            name=_name(kernel, "s"),
        )

    def effective_kernel(self, kernel, mask):
        del mask
        return ops.sign(kernel) * ops.relu(
            ops.abs(kernel) - ops.sigmoid(self.s)
        )

    def get_config(self):
        return {"s_init": self.s_init, "weight_decay": self.weight_decay}


@keras.saving.register_keras_serializable(package="keras_bimp")
class SigmoidGate(Rule):
    """A gate on each weight, that becomes a step while the training goes on.

    ```python
    effective = kernel * sigmoid(beta * s) / sigmoid(s_init)
    loss += penalty * sum(sigmoid(beta * s))
    ```

    `beta` grows from 1 in the first step to `beta_final` after the last.

    Args:
        s_init: Float, where all `s` start.
        penalty: Float >= 0.
        beta_final: Float > 0.

    Reference:

    - Savarese, Silva, Maire, "Winning the Lottery with Continuous
      Sparsification", NeurIPS 2020.
    """

    def __init__(
        self, s_init: float, penalty: float, beta_final: float = 300.0
    ):
        self.s_init = _check_finite("s_init", s_init)
        self.penalty = check_rate("penalty", penalty)
        self.beta_final = check_positive("beta_final", beta_final)

    def build(self, masked, kernel):
        self.s = masked.add_weight(
            shape=kernel.shape,
            initializer=_constant(self.s_init),
            dtype=kernel.dtype,
            autocast=False,
            name=_name(kernel, "s"),
        )
        self.step = _counter(masked, kernel, "step")
        self.steps = _counter(masked, kernel, "steps")

    def _gate(self):
        share = ops.cast(self.step, self.s.dtype) / ops.maximum(
            ops.cast(self.steps, self.s.dtype), 1
        )
        share = ops.minimum(share, 1)
        beta = ops.exp(ops.log(ops.cast(self.beta_final, self.s.dtype)) * share)
        return ops.sigmoid(beta * self.s)

    def effective_kernel(self, kernel, mask):
        del mask
        return kernel * self._gate() / _sigmoid(self.s_init)

    @classmethod
    def effective_kernels(cls, rules, kernels, masks, training):
        found = super().effective_kernels(rules, kernels, masks, training)
        # The penalty of this step comes after this and needs its gate.
        for rule in rules:
            rule.penalized = rule.penalty * ops.sum(rule._gate())
            if training:
                rule.step.assign(rule.step + 1)
        return found

    def loss(self):
        penalized, self.penalized = self.penalized, None
        return penalized

    def final_kernel(self, kernel, mask):
        del mask
        gate = ops.sigmoid(self.beta_final * self.s)
        open_ = kernel * gate / _sigmoid(self.s_init)
        return _masked(open_, self.s.value > 0)

    def get_config(self):
        return {
            "s_init": self.s_init,
            "penalty": self.penalty,
            "beta_final": self.beta_final,
        }


@keras.saving.register_keras_serializable(package="keras_bimp")
class StepThreshold(Rule):
    """Masks what is below a threshold that is learned, one per output unit.

    ```python
    effective = kernel * (abs(kernel) > t)
    loss += alpha * sum(exp(-t))
    ```

    The gradient of the step is a surrogate. Thresholds that would leave 1 % of
    a kernel or less start again from 0.

    Args:
        alpha: Float >= 0, the penalty.

    Reference:

    - Liu et al., "Dynamic Sparse Training", ICLR 2020.
    """

    def __init__(self, alpha: float):
        self.alpha = check_rate("alpha", alpha)

    def build(self, masked, kernel):
        settings = {
            "shape": kernel.shape[-1:],
            "initializer": "zeros",
            "dtype": kernel.dtype,
            "autocast": False,
        }
        self.raw = masked.add_weight(**settings, name=_name(kernel, "t"))
        # What is taken off `raw`: JAX gives back no trained variable that a
        # forward pass assigns to.
        self.start = masked.add_weight(
            **settings, trainable=False, name=_name(kernel, "t_start")
        )

    @property
    def threshold(self):
        """The thresholds `t`, a tensor of one per output unit."""
        return self.raw - self.start

    @classmethod
    def effective_kernels(cls, rules, kernels, masks, training):
        del masks
        return [
            rule._effective(kernel, training)
            for rule, kernel in zip(rules, kernels, strict=True)
        ]

    def _effective(self, kernel, training):
        left = ops.mean(
            ops.cast(ops.abs(kernel) > self.threshold, kernel.dtype)
        )
        start = ops.where(
            left <= 0.01, ops.stop_gradient(self.raw.value), self.start.value
        )
        if training:
            self.start.assign(start)
        self.penalized = self.alpha * ops.sum(ops.exp(start - self.raw))
        over = ops.abs(kernel) - (self.raw - start)
        step = ops.cast(over > 0, kernel.dtype)
        smooth = _integral_of_surrogate(over)
        return kernel * (step + smooth - ops.stop_gradient(smooth))

    def effective_kernel(self, kernel, mask):
        del mask
        return self._effective(kernel, training=False)

    def loss(self):
        penalized, self.penalized = self.penalized, None
        return penalized

    def final_kernel(self, kernel, mask):
        del mask
        return _masked(kernel, ops.abs(kernel) > self.threshold)

    def get_config(self):
        return {"alpha": self.alpha}


def _integral_of_surrogate(x):
    """A function whose derivative is the surrogate of the step's.

    That is 2 - 4 |x| up to 0.4, 0.4 up to 1, and 0 beyond.
    """
    size = ops.abs(x)
    near = 2 * x - 2 * x * size
    far = ops.sign(x) * 0.48 + 0.4 * (x - ops.sign(x) * 0.4)
    return ops.where(
        size <= 0.4, near, ops.where(size <= 1, far, ops.sign(x) * 0.72)
    )


def _check_finite(name, value):
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"`{name}` must be a number. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    if not math.isfinite(value):
        raise ValueError(f"`{name}` must be finite. Received: {name}={value}")
    return float(value)


def _constant(value):
    # Keras' own rounds the value to float32.
    return lambda shape, dtype: ops.convert_to_tensor(
        np.full(shape, value, keras.backend.standardize_dtype(dtype))
    )


def _sigmoid(x):
    return 1 / (1 + math.exp(-x))


def _count(kernels):
    return sum(math.prod(kernel.shape) for kernel in kernels)


def _counter(masked, kernel, name):
    return masked.add_weight(
        shape=(),
        initializer="zeros",
        dtype="int32",
        trainable=False,
        autocast=False,
        name=_name(kernel, name),
    )


def _name(kernel, name):
    return f"{kernel.path.replace('/', '_')}_{name}"
