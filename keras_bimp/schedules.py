"""Learning-rate schedules of retraining: iteration -> learning rate.

Every schedule is an optional warm-up followed by one of four bodies: a
constant, a recorded sequence, a cosine or a line. The named methods of the
literature (`FT`, `LLR`, `ALLR`) only choose among these.

A formula is written once. It is evaluated by `keras.ops` inside the compiled
train step, in float32, and by NumPy in `values()`, in float64.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_bimp.checks import check_integer
from keras_bimp.checks import check_rate

_NOT_BEGUN = 2**31 - 1


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate for each of a known number of iterations.

    The first `int(warmup * steps)` iterations rise from 0 to `peak` along half
    a cosine; the body has the others. Beyond the last iteration the last rate
    holds. Subclasses implement `_body`.

    Args:
        peak: Float >= 0, the largest rate.
        steps: Integer >= 1, the number of iterations.
        warmup: Float in [0, 1), the fraction of `steps` that warms up.
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
        """Returns the rate at `step`, a scalar integer tensor."""
        step = ops.clip(ops.convert_to_tensor(step), 0, self.steps - 1)
        return ops.cast(self._rate(step, ops), keras.config.floatx())

    def values(self) -> np.ndarray:
        """Returns the rates of all `steps` iterations as a float64 array."""
        rates = self._rate(np.arange(self.steps), np)
        return np.broadcast_to(rates, (self.steps,)).astype("float64")

    def _rate(self, step, xp):
        warm = int(self.warmup * self.steps)
        rate = self._body(xp.maximum(step - warm, 0), self.steps - warm, xp)
        if warm:
            ramp = self._peak(xp) * _half_sine(step, warm, xp)
            rate = xp.where(step < warm, ramp, rate)
        return rate

    def _peak(self, xp):
        return self.peak

    def _body(self, k, steps, xp):
        """The rate `k` of `steps` iterations after the warm-up."""
        raise NotImplementedError

    def get_config(self):
        return {"peak": self.peak, "steps": self.steps, "warmup": self.warmup}


def _half_sine(k, steps, xp):
    # sin^2 of the half angle, and integers divided only here: in float32,
    # (1 - cos x) / 2 loses all digits where x is small.
    return xp.sin(xp.true_divide(k, steps) * (math.pi / 2)) ** 2


@keras.saving.register_keras_serializable(package="keras_bimp")
class Constant(Schedule):
    """The same rate in every iteration after the warm-up.

    Args:
        peak: Float >= 0, the rate.
        steps: Integer >= 1, the number of iterations.
        warmup: Float in [0, 1), the fraction of `steps` that warms up.

    Example:

    >>> Constant(0.1, steps=3).values()
    array([0.1, 0.1, 0.1])
    """

    def _body(self, k, steps, xp):
        return self._peak(xp)


@keras.saving.register_keras_serializable(package="keras_bimp")
class Linear(Schedule):
    """A line from `peak` that would reach 0 one iteration after the last.

    ```python
    rate = peak * (1 - k / steps)
    ```

    Args:
        peak: Float >= 0, the rate at the start of the line.
        steps: Integer >= 1, the number of iterations.
        warmup: Float in [0, 1), the fraction of `steps` that warms up.

    Example:

    >>> Linear(1.0, steps=4).values()
    array([1.  , 0.75, 0.5 , 0.25])

    Reference:

    - Li, Yumer, Ramanan, "Budgeted Training", ICLR 2020.
    """

    def _body(self, k, steps, xp):
        return self._peak(xp) * xp.true_divide(steps - k, steps)


@keras.saving.register_keras_serializable(package="keras_bimp")
class Stepped(Schedule):
    """The original schedule's shape, rescaled to a new peak and length.

    ```python
    rate = original[int(k * len(original) / steps)] * peak / max(original)
    ```

    Args:
        original: The original rates: an array with one rate per iteration, or
            a pair `(schedule, steps)`.
        peak: Float >= 0, the new largest rate.
        steps: Integer >= 1, the new number of iterations.
        warmup: Float in [0, 1), the fraction of `steps` that warms up.

    Example:

    >>> Stepped([0.1, 0.1, 0.01, 0.001], peak=1.0, steps=2).values()
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
        dtype = "float64" if xp is np else keras.config.floatx()
        return self._peak(xp) * xp.take(xp.array(shape, dtype), k)

    def get_config(self):
        return {**super().get_config(), "original": self.original.tolist()}


@keras.saving.register_keras_serializable(package="keras_bimp")
class FT(Constant):
    """Fine-tuning: the last rate of the original training, constant.

    Args:
        original: The original rates: an array with one rate per iteration, or
            a pair `(schedule, steps)`.
        steps: Integer >= 1, the number of iterations.

    Example:

    >>> FT([0.1, 0.01, 0.001], steps=2).values()
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

    >>> LLR(0.1, steps=10).values()[:3]
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

    >>> ALLR(0.1, steps=10, discount=0.5).values()[:3]
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


@keras.saving.register_keras_serializable(package="keras_bimp")
class Joined(keras.optimizers.schedules.LearningRateSchedule):
    """One schedule that follows several, each from a moment set at run time.

    Every phase has two variables, `begins[i]` and `discounts[i]`. A phase
    runs once `begins[i]` holds the iteration count at its start. The compiled
    train step reads the variables, so starting a phase retraces nothing.

    ```python
    rate = schedules[i](step - begins[i])  # i: the last phase that has begun
    ```

    Args:
        schedules: List of schedules, in the order in which they will begin.
        begins: Iteration counts at which phases began; `None` for a phase that
            has not. Defaults to the first phase at 0 and no other.
        discounts: List of scalar variables or floats in [0, 1], which phases
            that adapt read (see `ALLR`). Defaults to 1 for each phase.
        replaced: What the optimizer's learning rate was before, to be put back
            after the run: a float or a schedule.

    Example:

    >>> joined = Joined([Linear(0.1, steps=4), Constant(0.01, steps=2)])
    >>> float(joined(2))
    0.05...
    >>> joined.begin(1, step=4)
    >>> float(joined(4))
    0.01...
    """

    def __init__(self, schedules, begins=None, discounts=None, replaced=None):
        self.schedules = list(schedules)
        if not self.schedules:
            raise ValueError(
                "`schedules` must hold at least one schedule. "
                f"Received: schedules={schedules}"
            )
        count = len(self.schedules)
        begins = [0] + [None] * (count - 1) if begins is None else begins
        discounts = [1.0] * count if discounts is None else discounts
        if len(begins) != count or len(discounts) != count:
            raise ValueError(
                "`begins` and `discounts` must have one entry per schedule. "
                f"Received: schedules of length {count}, "
                f"begins={begins}, discounts={discounts}"
            )
        self.replaced = replaced
        self.begins = [
            _scalar(_NOT_BEGUN if b is None else b, "int") for b in begins
        ]
        self.discounts = [
            d if isinstance(d, keras.Variable) else discount_variable(d)
            for d in discounts
        ]

    def __call__(self, step):
        """Returns the rate at `step`, a scalar integer tensor."""
        step = ops.convert_to_tensor(step)
        rate = self.schedules[0](self._since(0, step))
        for i in range(1, len(self.schedules)):
            begun = step >= ops.cast(self.begins[i].value, step.dtype)
            rate = ops.where(
                begun, self.schedules[i](self._since(i, step)), rate
            )
        return rate

    def _since(self, i, step):
        begin = ops.cast(self.begins[i].value, step.dtype)
        return ops.maximum(step - begin, 0)

    def begin(self, i: int, step: int) -> None:
        """Starts phase `i` at iteration count `step`."""
        self.begins[i].assign(step)

    def begun(self, i: int) -> bool:
        """Whether phase `i` has begun."""
        return int(self.begins[i]) != _NOT_BEGUN

    def copy_state(self, other: "Joined") -> None:
        """Takes over where `other`, a schedule of as many phases, stands."""
        for mine, theirs in zip(
            self.begins + self.discounts,
            other.begins + other.discounts,
            strict=True,
        ):
            mine.assign(theirs.value)

    def get_config(self):
        serialize = keras.optimizers.schedules.serialize
        replaced = self.replaced
        if isinstance(
            replaced, keras.optimizers.schedules.LearningRateSchedule
        ):
            replaced = serialize(replaced)
        begun = [self.begun(i) for i in range(len(self.schedules))]
        return {
            "schedules": [serialize(schedule) for schedule in self.schedules],
            "begins": [
                int(b) if on else None
                for b, on in zip(self.begins, begun, strict=True)
            ],
            "discounts": [float(d) for d in self.discounts],
            "replaced": replaced,
        }

    @classmethod
    def from_config(cls, config):
        deserialize = keras.optimizers.schedules.deserialize
        config = {**config}
        config["schedules"] = [deserialize(s) for s in config["schedules"]]
        if isinstance(config["replaced"], dict):
            config["replaced"] = deserialize(config["replaced"])
        return cls(**config)


def _scalar(value, dtype):
    return keras.Variable(value, dtype=dtype, trainable=False, autocast=False)


def discount_variable(value: float = 1.0) -> keras.Variable:
    """A scalar variable that holds the discount of one retraining cycle."""
    return _scalar(value, "float32")


def discount_factor(
    norm_drop: float,
    pruned_fraction: float,
    retrain_epochs: float,
    original_epochs: float | None,
) -> tuple[float, float, float]:
    """ALLR's discount of the peak rate after a pruning.

    ```python
    d1 = norm_drop / sqrt(pruned_fraction)
    d2 = min(retrain_epochs / original_epochs, 1)
    d = min(1, max(d1, d2))
    ```

    Args:
        norm_drop: Float in [0, 1]: the norm of the change of all prunable
            weights over their norm just before the pruning.
        pruned_fraction: Float in [0, 1]: the share of the weights remaining
            before the pruning that it removed. At 0, `d1` is 0.
        retrain_epochs: Length of this cycle's retraining, in epochs.
        original_epochs: Length of the original training, in epochs; `None` if
            it is not known, then `d2` is 0.

    Returns:
        The tuple `(d1, d2, d)`.

    Example:

    >>> discount_factor(0.3, 0.36, retrain_epochs=10, original_epochs=100)
    (0.5, 0.1, 0.5)

    Reference:

    - Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love
      Retraining", ICLR 2023, Section 2.1.
    """
    d1 = norm_drop / math.sqrt(pruned_fraction) if pruned_fraction else 0.0
    d2 = 0.0
    if original_epochs is not None:
        d2 = min(retrain_epochs / original_epochs, 1.0)
    return d1, d2, min(1.0, max(d1, d2))


def original_rates(original) -> np.ndarray:
    """The rates of an original training as a float64 array.

    Args:
        original: An array with one rate per iteration, or a pair
            `(schedule, steps)`.

    Returns:
        A 1-dimensional float64 array of at least one rate.

    Raises:
        ValueError: If `original` is none of these, or a rate is negative or
            not finite.
    """
    if (
        isinstance(original, tuple)
        and len(original) == 2
        and callable(original[0])
    ):
        return schedule_values(original[0], original[1])
    if original is None:
        raise ValueError(
            "`original`, the learning rates of the original training, is "
            "needed by this schedule: an array with one rate per iteration, "
            "or a pair (schedule, steps). Received: original=None"
        )
    rates = np.asarray(original, dtype="float64")
    if rates.ndim != 1 or not len(rates):
        raise ValueError(
            "`original` must be an array of learning rates, one per "
            "iteration, or a pair (schedule, steps). "
            f"Received: original={original!r}"
        )
    if not (np.isfinite(rates).all() and (rates >= 0).all()):
        raise ValueError(
            "`original` must hold finite rates >= 0. "
            f"Received: original={original!r}"
        )
    return rates


def schedule_values(schedule, steps: int) -> np.ndarray:
    """The rates of any Keras schedule over `steps` iterations, in float64."""
    steps = check_integer("steps", steps, minimum=1)
    if isinstance(schedule, Schedule):
        values = schedule.values()[:steps]
        return np.pad(values, (0, steps - len(values)), mode="edge")
    iterations = ops.arange(steps)
    try:
        rates = ops.convert_to_numpy(ops.vectorized_map(schedule, iterations))
    except Exception:  # Not every schedule can be vectorized.
        rates = [float(schedule(i)) for i in iterations]
    return np.asarray(rates, dtype="float64").reshape(steps)
