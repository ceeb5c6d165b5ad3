"""The retraining schedules of the literature."""

import warnings

import keras
from keras import ops

from keras_bimp._src.backends import as_array
from keras_bimp._src.backends import in_step
from keras_bimp._src.checks import check_integer
from keras_bimp._src.checks import check_rate
from keras_bimp._src.schedules.bodies import Constant
from keras_bimp._src.schedules.bodies import Cosine
from keras_bimp._src.schedules.bodies import Linear
from keras_bimp._src.schedules.bodies import Recorded
from keras_bimp._src.schedules.bodies import Stepped
from keras_bimp._src.schedules.original import original_rates


@keras.saving.register_keras_serializable(package="keras_bimp")
class FT(Constant):
    """Fine-tuning: the last rate of the original training, constant.

    Warns if it is less than 1% of the largest rate. If the original rate
    decays to 0, fine-tuning hardly moves the weights.

    Args:
        original: The original rates, as in `Recorded`.
        steps: Integer >= 1, the number of iterations.

    Example:

    >>> keras_bimp.schedules.FT([0.1, 0.01, 0.001], steps=2).values()
    array([0.001, 0.001])

    Reference:

    - Han et al., "Learning both Weights and Connections for Efficient Neural
      Networks", NeurIPS 2015.
    """

    def __init__(self, original, steps: int):
        rates = original_rates(original)
        super().__init__(rates[-1], steps)
        # With a margin: in float32, 0.001 can be 0.0009999999 after 0.1.
        if rates[-1] < 0.0099999 * rates.max():
            warnings.warn(
                f"Fine-tuning at {rates[-1]:.2g}, the last rate of the "
                f"original training and less than 1% of its largest "
                f"({rates.max():g}), will hardly move the weights. Pass the "
                "rates of an `original` training that does not decay to 0, "
                "or use another schedule, such as retraining='allr'.",
                stacklevel=2,
            )

    def get_config(self):
        return {"original": [self.peak], "steps": self.steps}


@keras.saving.register_keras_serializable(package="keras_bimp")
class LRW(Recorded):
    """Learning-rate rewinding: repeat the last rates of the original training.

    ```python
    rate = original[len(original) - steps + k]
    ```

    Args:
        original: The original rates, as in `Recorded`, at least `steps`.
        steps: Integer >= 1, the number of iterations.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value that cannot be.

    Example:

    >>> keras_bimp.schedules.LRW([0.1, 0.1, 0.01], steps=2).values()
    array([0.1 , 0.01])

    Reference:

    - Renda, Frankle, Carbin, "Comparing Rewinding and Fine-tuning in Neural
      Network Pruning", ICLR 2020.
    """

    def __init__(self, original, steps: int):
        steps = check_integer("steps", steps, minimum=1)
        rates = original_rates(original)
        if steps > len(rates):
            raise ValueError(
                "`steps` must not exceed the length of `original`: "
                "retraining cannot rewind past the start of the original "
                f"training. Received: steps={steps}, original of {len(rates)} "
                "rates"
            )
        super().__init__(rates[-steps:])

    def get_config(self):
        return {"original": self.recorded.tolist(), "steps": self.steps}


@keras.saving.register_keras_serializable(package="keras_bimp")
class SLR(Stepped):
    """Scaled learning-rate restarting: the original rates, compressed.

    The original rates before the first largest rate, its own warm-up, are
    replaced by the largest rate.

    Args:
        original: The original rates, as in `Recorded`.
        steps: Integer >= 1, the number of iterations.
        warmup: Float in [0, 1), the fraction of `steps` that warms up.

    Example:

    >>> keras_bimp.schedules.SLR([0.1, 0.1, 0.01], steps=3).values()
    array([0.1 , 0.1 , 0.01])

    Reference:

    - Le, Hua, "Network Pruning That Matters: A Case Study on Retraining
      Variants", ICLR 2021.
    """

    def __init__(self, original, steps: int, warmup: float = 0.1):
        rates = original_rates(original)
        rates[: rates.argmax()] = rates.max()
        super().__init__(rates, rates.max(), steps, warmup)

    def get_config(self):
        config = super().get_config()
        del config["peak"]
        return config


@keras.saving.register_keras_serializable(package="keras_bimp")
class CLR(Cosine):
    """Cyclic learning-rate restarting: cosine from the largest to last rate.

    Args:
        original: The original rates, as in `Recorded`. The cosine falls from
            the largest to the last of them.
        steps: Integer >= 1, the number of iterations.
        warmup: Float in [0, 1), the fraction of `steps` that warms up.

    Example:

    >>> schedule = keras_bimp.schedules.CLR([0.3, 0.1], steps=10, warmup=0)
    >>> schedule.values()[[0, 5]].round(6)
    array([0.3, 0.2])

    Reference:

    - Le, Hua, "Network Pruning That Matters: A Case Study on Retraining
      Variants", ICLR 2021.
    """

    def __init__(self, original, steps: int, warmup: float = 0.1):
        rates = original_rates(original)
        super().__init__(rates.max(), steps, warmup, floor=rates[-1])

    def get_config(self):
        return {
            "original": [self.peak, self.floor],
            "steps": self.steps,
            "warmup": self.warmup,
        }


@keras.saving.register_keras_serializable(package="keras_bimp")
class LLR(Linear):
    """Linear learning-rate restarting: warm up to `peak`, then linear to 0.

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
    """Adaptive linear learning-rate restarting: `LLR` with a discounted peak.

    The discount is `d` of `discount_factor`: small if the pruning hardly
    changed the weights and the retraining is short, 1 if it changed them a
    lot or lasts as long as the original training.

    Args:
        peak: Float >= 0, the largest rate of the original training.
        steps: Integer >= 1, the number of iterations.
        discount: Float in [0, 1], or a scalar `keras.Variable`, which is read
            in every iteration.
        warmup: Float in [0, 1), the fraction of `steps` that warms up.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value that cannot be.

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
            return self.peak * in_step(self.discount)
        return self.peak * self._discount_now()

    def get_config(self):
        return {**super().get_config(), "discount": self._discount_now()}

    def _discount_now(self):
        if isinstance(self.discount, keras.Variable):
            return float(as_array(self.discount))
        return self.discount
