"""The retraining methods of the literature. They only choose a body."""

import keras
from keras import ops

from keras_bimp.checks import check_rate
from keras_bimp.schedules.bodies import Constant
from keras_bimp.schedules.bodies import Linear
from keras_bimp.schedules.original import original_rates


@keras.saving.register_keras_serializable(package="keras_bimp")
class FT(Constant):
    """Fine-tuning: the last rate of the original training, constant.

    Args:
        original: The original rates: an array with one rate per iteration, or
            a pair `(schedule, steps)`.
        steps: Integer >= 1, the number of iterations.

    Example:

    >>> keras_bimp.schedules.FT([0.1, 0.01, 0.001], steps=2).values()
    array([0.001, 0.001])

    Reference:

    - Han et al., "Learning both Weights and Connections for Efficient Neural
      Networks", NeurIPS 2015.
    """

    def __init__(self, original, steps: int):
        super().__init__(original_rates(original)[-1], steps)

    def get_config(self):
        return {"original": [self.peak], "steps": self.steps}


@keras.saving.register_keras_serializable(package="keras_bimp")
class LLR(Linear):
    """Linear learning-rate restarting: warm up to `peak`, then a line to 0.

    Args:
        peak: Float >= 0, the largest rate of the original training.
        steps: Integer >= 1, the number of iterations.
        warmup: Float in [0, 1), the fraction of `steps` that warms up.

    Example:

    >>> keras_bimp.schedules.LLR(0.1, steps=10).values()[:3]
    array([0.        , 0.1       , 0.08888889])

    Reference:

    - Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love
      Retraining", ICLR 2023, Section 2.1.
    """

    def __init__(self, peak: float, steps: int, warmup: float = 0.1):
        super().__init__(peak, steps, warmup)


@keras.saving.register_keras_serializable(package="keras_bimp")
class ALLR(LLR):
    """Adaptive linear learning-rate restarting: `LLR` from a discounted peak.

    The discount is `discount_factor`'s `d`: small where the pruning hardly
    changed the weights and the retraining is short, 1 where it changed them a
    lot or lasts as long as the original training.

    Args:
        peak: Float >= 0, the largest rate of the original training.
        steps: Integer >= 1, the number of iterations.
        discount: Float in [0, 1], or a scalar `keras.Variable` that is read
            anew in every iteration.
        warmup: Float in [0, 1), the fraction of `steps` that warms up.

    Example:

    >>> keras_bimp.schedules.ALLR(0.1, steps=10, discount=0.5).values()[:3]
    array([0.        , 0.05      , 0.04444444])

    Reference:

    - Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love
      Retraining", ICLR 2023, Section 2.1.
    """

    def __init__(self, peak: float, steps: int, discount, warmup: float = 0.1):
        super().__init__(peak, steps, warmup)
        if not isinstance(discount, keras.Variable):
            discount = check_rate("discount", discount)
            if discount > 1:
                raise ValueError(
                    "`discount` must be in [0, 1]. "
                    f"Received: discount={discount}"
                )
        self.discount = discount

    def _peak(self, xp):
        if isinstance(self.discount, keras.Variable) and xp is ops:
            return self.peak * self.discount.value
        return self.peak * float(self.discount)

    def get_config(self):
        return {**super().get_config(), "discount": float(self.discount)}
