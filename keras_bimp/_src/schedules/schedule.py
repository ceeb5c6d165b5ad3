"""The base class of all schedules: an optional warm-up, then a body."""

import math

import keras
import numpy as np
from keras import ops

from keras_bimp._src.backends import known_number
from keras_bimp._src.checks import check_integer
from keras_bimp._src.checks import check_rate


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Learning-rate schedule of known length.

    The rate rises from 0 to `peak` along half a cosine in the first
    `int(warmup * steps)` iterations; then the body follows. After the last
    iteration, the last rate is kept. Subclasses implement `_body`.

    Args:
        peak: Float >= 0, the largest rate.
        steps: Integer >= 1, the number of iterations.
        warmup: Float in [0, 1), the fraction of `steps` that warms up.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value that cannot be.

    Example:

    >>> class Square(keras_bimp.schedules.Schedule):
    ...     def _body(self, k, steps, xp):
    ...         return self._peak(xp) * xp.true_divide(steps - k, steps) ** 2
    >>> Square(1.0, steps=2).values()
    array([1.  , 0.25])
    """

    def __init__(self, peak: float, steps: int, warmup: float = 0.0):
        self.peak = check_rate("peak", peak)
        self.steps = check_integer("steps", steps, minimum=1)
        self.warmup = check_rate("warmup", warmup)
        if self.warmup >= 1:
            raise ValueError(
                f"`warmup` must be in [0, 1). Received: warmup={warmup}"
            )

    def __call__(self, step):
        """Return the rate at `step`, a scalar integer tensor."""
        step = ops.convert_to_tensor(step)
        if (now := known_number(step)) is not None:
            # Ten torch operations would dominate the cost of a rate.
            rate = self._rate(np.int64(min(max(now, 0), self.steps - 1)), np)
            return ops.convert_to_tensor(rate, keras.config.floatx())
        step = ops.clip(step, 0, self.steps - 1)
        return ops.cast(self._rate(step, ops), keras.config.floatx())

    def values(self) -> np.ndarray:
        """Return the rates of all `steps` iterations as a float64 array."""
        rates = self._rate(np.arange(self.steps), np)
        return np.broadcast_to(rates, (self.steps,)).astype("float64")

    def plot(self, ax=None, **kwargs):
        """Plot the rate of every iteration. Needs matplotlib.

        Args:
            ax: Matplotlib axes. Defaults to those of a new figure.
            **kwargs: Passed to `ax.plot`; `label` defaults to the class name.

        Returns:
            The axes.
        """
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots()
            ax.set(xlabel="iteration", ylabel="learning rate")
        ax.plot(self.values(), **{"label": type(self).__name__, **kwargs})
        return ax

    def _rate(self, step, xp):
        warm = int(self.warmup * self.steps)
        rate = self._body(xp.maximum(step - warm, 0), self.steps - warm, xp)
        if warm:
            ramp = self._peak(xp) * half_sine(step, warm, xp)
            rate = xp.where(step < warm, ramp, rate)
        return rate

    def _peak(self, xp):
        return self.peak

    def _body(self, k, steps, xp):
        """Return the rate at iteration `k` of `steps` after the warm-up."""
        raise NotImplementedError

    def get_config(self):
        return {"peak": self.peak, "steps": self.steps, "warmup": self.warmup}


def half_sine(k, steps, xp):
    """Rise from 0 to 1 along half a cosine while `k` goes from 0 to `steps`.

    Args:
        k: Integer tensor.
        steps: Integer >= 1.
        xp: `keras.ops` or `numpy`.
    """
    # sin^2 of the half angle, with the integer division only here: in float32,
    # (1 - cos x) / 2 loses all digits for small x.
    return xp.sin(xp.true_divide(k, steps) * (math.pi / 2)) ** 2
