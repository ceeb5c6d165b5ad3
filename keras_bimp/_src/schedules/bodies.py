"""The bodies of schedules: constant, line, cosine, recorded sequence."""

import keras
import numpy as np

from keras_bimp._src.checks import check_rate
from keras_bimp._src.schedules.original import original_rates
from keras_bimp._src.schedules.schedule import Schedule
from keras_bimp._src.schedules.schedule import half_sine


@keras.saving.register_keras_serializable(package="keras_bimp")
class Constant(Schedule):
    """Constant rate after the warm-up.

    Args:
        peak: Float >= 0, the rate.
        steps: Integer >= 1, the number of iterations.
        warmup: Float in [0, 1), the fraction of `steps` that warms up.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value that cannot be.

    Example:

    >>> keras_bimp.schedules.Constant(0.1, steps=3).values()
    array([0.1, 0.1, 0.1])
    """

    def _body(self, k, steps, xp):
        return self._peak(xp)


@keras.saving.register_keras_serializable(package="keras_bimp")
class Linear(Schedule):
    """Linear decay from `peak` that reaches 0 one iteration after the end.

    ```python
    rate = peak * (1 - k / steps)
    ```

    Args:
        peak: Float >= 0, the rate at the start of the line.
        steps: Integer >= 1, the number of iterations.
        warmup: Float in [0, 1), the fraction of `steps` that warms up.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value that cannot be.

    Example:

    >>> keras_bimp.schedules.Linear(1.0, steps=4).values()
    array([1.  , 0.75, 0.5 , 0.25])

    Reference:

    - Li, Yumer, Ramanan, "Budgeted Training", ICLR 2020.
    """

    def _body(self, k, steps, xp):
        return self._peak(xp) * xp.true_divide(steps - k, steps)


@keras.saving.register_keras_serializable(package="keras_bimp")
class Cosine(Schedule):
    """Cosine decay that reaches `floor` one iteration after the end.

    ```python
    rate = floor + (peak - floor) * (1 + cos(pi * k / steps)) / 2
    ```

    Args:
        peak: Float >= 0, the rate at the start of the cosine.
        steps: Integer >= 1, the number of iterations.
        warmup: Float in [0, 1), the fraction of `steps` that warms up.
        floor: Float in [0, `peak`], the rate at the end of the cosine.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value that cannot be.

    Example:

    >>> keras_bimp.schedules.Cosine(1.0, steps=2).values().round(6)
    array([1. , 0.5])

    Reference:

    - Loshchilov, Hutter, "SGDR: Stochastic Gradient Descent with Warm
      Restarts", ICLR 2017.
    """

    def __init__(
        self,
        peak: float,
        steps: int,
        warmup: float = 0.0,
        floor: float = 0.0,
    ):
        super().__init__(peak, steps, warmup)
        self.floor = check_rate("floor", floor)
        if self.floor > self.peak:
            raise ValueError(
                "`floor` must not exceed `peak`. "
                f"Received: floor={floor}, peak={peak}"
            )

    def _body(self, k, steps, xp):
        height = self._peak(xp) - self.floor
        return self.floor + height * half_sine(steps - k, steps, xp)

    def get_config(self):
        return {**super().get_config(), "floor": self.floor}


@keras.saving.register_keras_serializable(package="keras_bimp")
class Recorded(Schedule):
    """A sequence of rates, one per iteration.

    Args:
        values: The rates: an array with one rate per iteration, a
            `RecordLearningRate` or a schedule of known length, or a pair
            `(schedule, steps)`.

    Example:

    >>> keras_bimp.schedules.Recorded([0.1, 0.1, 0.01]).values()
    array([0.1 , 0.1 , 0.01])
    """

    def __init__(self, values):
        self.recorded = original_rates(values, name="values")
        super().__init__(self.recorded.max(), len(self.recorded))

    def _body(self, k, steps, xp):
        return _look_up(self.recorded, k, xp)

    def get_config(self):
        return {"values": self.recorded.tolist()}


@keras.saving.register_keras_serializable(package="keras_bimp")
class Stepped(Schedule):
    """The original schedule's shape, rescaled to a new peak and length.

    ```python
    rate = original[int(k * len(original) / steps)] * peak / max(original)
    ```

    Args:
        original: The original rates, as in `Recorded`.
        peak: Float >= 0, the new largest rate.
        steps: Integer >= 1, the new number of iterations.
        warmup: Float in [0, 1), the fraction of `steps` that warms up.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value that cannot be.

    Example:

    >>> original = [0.1, 0.1, 0.01, 0.001]
    >>> keras_bimp.schedules.Stepped(original, peak=1.0, steps=2).values()
    array([1. , 0.1])

    Reference:

    - Li, Yumer, Ramanan, "Budgeted Training", ICLR 2020 (budget-aware
      conversion).
    """

    def __init__(self, original, peak: float, steps: int, warmup: float = 0.0):
        super().__init__(peak, steps, warmup)
        self.original = original_rates(original)
        if not self.original.max() > 0:
            raise ValueError(
                "`original` must hold a rate > 0. "
                f"Received: original={self.original}"
            )

    def _body(self, k, steps, xp):
        source = np.arange(steps) * len(self.original) // steps
        shape = self.original[source] / self.original.max()
        return self._peak(xp) * _look_up(shape, k, xp)

    def get_config(self):
        return {**super().get_config(), "original": self.original.tolist()}


def _look_up(table, k, xp):
    dtype = "float64" if xp is np else keras.config.floatx()
    return xp.take(xp.array(table, dtype), k)
