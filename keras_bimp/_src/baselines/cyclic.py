"""A learning rate that restarts at each pruning of `gmp`."""

import keras

from keras_bimp._src.checks import check_integer
from keras_bimp._src.schedules import Schedule


@keras.saving.register_keras_serializable(package="keras_bimp")
class Cyclic(Schedule):
    """Linear decay from `peak` to 0, restarted after every pruning.

    Args:
        peak: Float >= 0, the rate at the beginning and after each pruning.
        steps: Integer >= 1, the number of iterations.
        interval: Integer >= 1, iterations between the prunings of `gmp`: its
            epochs between prunings times the steps per epoch. The last decay
            runs from the last pruning to the end.
        warmup: Float in [0, 1), the fraction of `steps` that warms up first.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value that cannot be.

    Example:

    >>> keras_bimp.baselines.Cyclic(1.0, steps=6, interval=2).values()
    array([1. , 0.5, 1. , 0.5, 1. , 0.5])
    """

    def __init__(
        self, peak: float, steps: int, interval: int, warmup: float = 0.0
    ):
        super().__init__(peak, steps, warmup)
        self.interval = check_integer("interval", interval, minimum=1)

    def _body(self, k, steps, xp):
        warm = self.steps - steps
        # The prunings are counted from the beginning of the warm-up.
        prunings = max(self.steps // self.interval - 1, 0)
        cycle = xp.minimum((warm + k) // self.interval, prunings)
        begin = xp.maximum(cycle * self.interval - warm, 0)
        end = (cycle + 1) * self.interval - warm
        length = xp.where(cycle == prunings, steps, end) - begin
        return self._peak(xp) * (1 - xp.true_divide(k - begin, length))

    def get_config(self):
        return {**super().get_config(), "interval": self.interval}
