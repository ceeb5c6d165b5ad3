"""Sparsity schedules: progress in [0, 1] -> sparsity, as plain functions."""

from collections.abc import Sequence

from keras_bimp._src.checks import check_integer
from keras_bimp._src.checks import check_positive
from keras_bimp._src.checks import check_sparsity


def geometric(progress: float, target_sparsity: float) -> float:
    """Remove the same fraction of the remaining weights in equal steps.

    ```python
    sparsity = 1 - (1 - target_sparsity) ** progress
    ```

    After cycle `j` of `J` the progress is `j / J`. This is the schedule of
    iterative magnitude pruning, also called exponential.

    Args:
        progress: Float in [0, 1].
        target_sparsity: Float in [0, 1), the sparsity at progress 1.

    Returns:
        The sparsity at `progress`, a float in [0, `target_sparsity`].

    Example:

    >>> geometric = keras_bimp.sparsity_schedules.geometric
    >>> [geometric(j / 2, 0.75) for j in (0, 1, 2)]
    [0.0, 0.5, 0.75]

    Reference:

    - Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love
      Retraining", ICLR 2023, Section 2.
    """
    return 1.0 - (1.0 - target_sparsity) ** progress


def cubic(progress: float, target_sparsity: float) -> float:
    """Prune fast at first, slowly at the end: gradual magnitude pruning.

    ```python
    sparsity = target_sparsity * (1 - (1 - progress) ** 3)
    ```

    Args:
        progress: Float in [0, 1].
        target_sparsity: Float in [0, 1), the sparsity at progress 1.

    Returns:
        The sparsity at `progress`, a float in [0, `target_sparsity`].

    Example:

    >>> [keras_bimp.sparsity_schedules.cubic(i / 2, 0.5) for i in (0, 1, 2)]
    [0.0, 0.4375, 0.5]

    Reference:

    - Zhu and Gupta, "To prune, or not to prune", 2017, Section 3.
    """
    return target_sparsity - target_sparsity * (1.0 - progress) ** 3


class PolynomialDecay:
    """Sparsity schedule by steps, which also decides when to prune.

    Equals `tfmot.sparsity.keras.PolynomialDecay`. Use it with
    `baselines.gmp(schedule=)`, which also accepts tfmot's class.

    Args:
        initial_sparsity: Float in [0, 1), at `begin_step`.
        final_sparsity: Float in [0, 1), from `end_step` on.
        begin_step: Integer >= 0, the first step that prunes.
        end_step: Integer > `begin_step`, the last step that may prune.
        power: Float > 0, the exponent of the polynomial.
        frequency: Integer >= 1, the number of steps between prunings.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value that cannot be.

    Example:

    >>> PolynomialDecay = keras_bimp.sparsity_schedules.PolynomialDecay
    >>> schedule = PolynomialDecay(0.0, 0.5, 0, 200)
    >>> [schedule(step) for step in (0, 50, 100, 300)]
    [(True, 0.0), (False, 0.2890625), (True, 0.4375), (False, 0.5)]

    Reference:

    - Zhu and Gupta, "To prune, or not to prune", 2017, Section 3.
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        power: float = 3,
        frequency: int = 100,
    ):
        self.initial_sparsity = check_sparsity(
            "initial_sparsity", initial_sparsity
        )
        self.final_sparsity = check_sparsity("final_sparsity", final_sparsity)
        self.begin_step = check_integer("begin_step", begin_step, minimum=0)
        self.end_step = check_integer(
            "end_step", end_step, minimum=begin_step + 1
        )
        self.power = check_positive("power", power)
        self.frequency = check_integer("frequency", frequency, minimum=1)

    def __call__(self, step: int) -> tuple[bool, float]:
        """Return (whether to prune, sparsity) for a step, counted from 0."""
        past = step - self.begin_step
        progress = past / (self.end_step - self.begin_step)
        left = (1 - min(max(progress, 0.0), 1.0)) ** self.power
        sparsity = (
            self.final_sparsity
            + (self.initial_sparsity - self.final_sparsity) * left
        )
        due = self.begin_step <= step <= self.end_step
        return due and past % self.frequency == 0, sparsity


def pruned_weights(total: int, sparsities: Sequence[float]) -> list[int]:
    """Return the exact number of pruned weights after each pruning.

    Every pruning except the last removes `round(q * remaining)` weights, where
    `q` is the fraction of the remaining weights that its sparsity implies. The
    last one ends at `round(sparsity * total)`. Python's `round`: half to even.

    Args:
        total: Integer, the number of prunable weights.
        sparsities: Floats in [0, 1), the sparsity after each pruning.

    Returns:
        A list of integers, one per pruning, never decreasing.

    Example:

    >>> from keras_bimp._src.sparsity_schedules import pruned_weights
    >>> pruned_weights(1000, [0.5, 0.75, 0.9])
    [500, 750, 900]
    """
    final = round(sparsities[-1] * total)
    found, pruned, before = [], 0, 0.0
    for sparsity in sparsities[:-1]:
        fraction = max(0.0, 1 - (1 - sparsity) / (1 - before))
        pruned = min(pruned + round(fraction * (total - pruned)), final)
        found.append(pruned)
        before = max(before, sparsity)
    return [*found, final]
