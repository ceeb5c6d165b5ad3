"""Mask rules with learned thresholds or gates."""

import math
import numbers

import keras
import numpy as np
from keras import ops

from keras_bimp._src.backends import where_kept
from keras_bimp._src.baselines.magnitude_rules import counter
from keras_bimp._src.baselines.magnitude_rules import variable_name
from keras_bimp._src.checks import check_positive
from keras_bimp._src.checks import check_rate
from keras_bimp._src.masking import Rule


@keras.saving.register_keras_serializable(package="keras_bimp")
class SoftThreshold(Rule):
    """Rule that shrinks weights by a learned threshold per kernel.

    ```python
    effective = sign(kernel) * relu(abs(kernel) - sigmoid(s))
    ```

    Args:
        s_init: Float, initial value of `s`.
        weight_decay: Float >= 0, of `s`: coupled, like that of the kernels.

    Raises:
        ValueError: If an argument has a value that cannot be.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    >>> model.set_weights([np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros(2)])
    >>> rule = keras_bimp.baselines.SoftThreshold(s_init=0.0)
    >>> wrapped = keras_bimp.wrap(model, rule=rule)
    >>> keras.ops.convert_to_numpy(wrapped(np.ones((1, 2)))).round(4).tolist()
    [[3.0, 5.0]]

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
            name=variable_name(kernel, "s"),
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
    """Rule with a gate per weight, which becomes a step during training.

    ```python
    effective = kernel * sigmoid(beta * s) / sigmoid(s_init)
    loss += penalty * sum(sigmoid(beta * s))
    ```

    `beta` grows from 1 in the first step to `beta_final` after the last.

    Args:
        s_init: Float, initial value of all `s`.
        penalty: Float >= 0.
        beta_final: Float > 0.

    Raises:
        ValueError: If an argument has a value that cannot be.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    >>> model.set_weights([np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros(2)])
    >>> rule = keras_bimp.baselines.SigmoidGate(s_init=0.0, penalty=0.1)
    >>> wrapped = keras_bimp.wrap(model, rule=rule)
    >>> keras.ops.convert_to_numpy(wrapped(np.ones((1, 2)))).round(4).tolist()
    [[4.0, 6.0]]

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
            name=variable_name(kernel, "s"),
        )
        self.step = counter(masked, kernel, "step")
        self.steps = counter(masked, kernel, "steps")

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
        # The penalty is computed later and needs the gate of this step.
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
        return where_kept(self.s.value > 0, open_)

    def get_config(self):
        return {
            "s_init": self.s_init,
            "penalty": self.penalty,
            "beta_final": self.beta_final,
        }


@keras.saving.register_keras_serializable(package="keras_bimp")
class StepThreshold(Rule):
    """Rule that masks weights below a learned threshold per output unit.

    ```python
    effective = kernel * (abs(kernel) > t)
    loss += alpha * sum(exp(-t))
    ```

    The gradient of the step is a surrogate. Thresholds that would leave 1% of
    a kernel or less restart from 0.

    Args:
        alpha: Float >= 0, the penalty.

    Raises:
        ValueError: If an argument has a value that cannot be.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    >>> model.set_weights([np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros(2)])
    >>> rule = keras_bimp.baselines.StepThreshold(alpha=0.1)
    >>> wrapped = keras_bimp.wrap(model, rule=rule)
    >>> keras.ops.convert_to_numpy(wrapped(np.ones((1, 2)))).round(4).tolist()
    [[4.0, 6.0]]

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
        self.raw = masked.add_weight(
            **settings, name=variable_name(kernel, "t")
        )
        # Subtracted from `raw`, because JAX does not return trainable
        # variables that a forward pass assigns to.
        self.start = masked.add_weight(
            **settings, trainable=False, name=variable_name(kernel, "t_start")
        )

    @property
    def threshold(self):
        """The thresholds `t`, a tensor with one per output unit."""
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
        return where_kept(ops.abs(kernel) > self.threshold, kernel)

    def get_config(self):
        return {"alpha": self.alpha}


def _integral_of_surrogate(x):
    """Function whose derivative is the surrogate gradient of the step.

    The derivative is 2 - 4 |x| up to 0.4, 0.4 up to 1, and 0 beyond.
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
    # Keras' constant initializer rounds the value to float32.
    return lambda shape, dtype: ops.convert_to_tensor(
        np.full(shape, value, keras.backend.standardize_dtype(dtype))
    )


def _sigmoid(x):
    return 1 / (1 + math.exp(-x))
