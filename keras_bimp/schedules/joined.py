"""The one schedule that a run installs."""

import functools

import keras
from keras import ops

from keras_bimp.backends import as_array
from keras_bimp.backends import in_step
from keras_bimp.schedules.discount import discount_variable

_NOT_BEGUN = 2**31 - 1


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
        notes: Dict of strings and numbers that the run needs to go on.

    Example:

    >>> joined = keras_bimp.schedules.Joined(
    ...     [
    ...         keras_bimp.schedules.Linear(0.1, steps=4),
    ...         keras_bimp.schedules.Constant(0.01, steps=2),
    ...     ]
    ... )
    >>> round(float(joined(2)), 6)
    0.05
    >>> joined.begin(1, step=4)
    >>> round(float(joined(4)), 6)
    0.01
    """

    def __init__(
        self,
        schedules,
        begins=None,
        discounts=None,
        replaced=None,
        notes=None,
    ):
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
        self.notes = dict(notes or {})
        self._now = self._discount = None
        self.begins = [
            keras.Variable(
                _NOT_BEGUN if b is None else b,
                dtype="int",
                trainable=False,
                autocast=False,
            )
            for b in begins
        ]
        self.discounts = [
            d if isinstance(d, keras.Variable) else discount_variable(d)
            for d in discounts
        ]

    def __call__(self, step):
        """Returns the rate at `step`, a scalar integer tensor."""
        step = ops.convert_to_tensor(step)
        if self._now is not None:
            return self._rate_now(step)
        rate = self.schedules[0](self._since(0, step))
        for i in range(1, len(self.schedules)):
            begun = step >= ops.cast(in_step(self.begins[i]), step.dtype)
            rate = ops.where(
                begun, self.schedules[i](self._since(i, step)), rate
            )
        return rate

    def _rate_now(self, step):
        phase, begin = in_step(self._now)
        since = ops.maximum(step - ops.cast(begin, step.dtype), 0)
        rates = [
            functools.partial(self._rate_of, i)
            for i in range(len(self.schedules))
        ]
        return ops.switch(phase, rates, since, in_step(self._discount))

    def _rate_of(self, i, since, discount):
        with keras.StatelessScope([(self.discounts[i], discount)]):
            return ops.cast(self.schedules[i](since), keras.config.floatx())

    def _since(self, i, step):
        begin = ops.cast(in_step(self.begins[i]), step.dtype)
        return ops.maximum(step - begin, 0)

    def as_state(self) -> list[keras.Variable]:
        """Has the rate follow from two variables, which it returns.

        For a step that must be given all that it reads, as that of JAX. They
        hold which phase it is, when it began, and its discount.
        """
        self._now = keras.Variable(
            [0, 0], dtype="int", trainable=False, autocast=False
        )
        self._discount = discount_variable()
        self._refresh()
        return [self._now, self._discount]

    def _refresh(self):
        if self._now is None:
            return
        begun = [i for i in range(len(self.begins)) if self.begun(i)]
        i = max(begun, default=0)
        self._now.assign([i, self.began_at(i)])
        self._discount.assign(as_array(self.discounts[i]))

    def begin(self, i: int, step: int) -> None:
        """Starts phase `i` at iteration count `step`."""
        self.begins[i].assign(step)
        self._refresh()

    def begun(self, i: int) -> bool:
        """Whether phase `i` has begun."""
        return self.began_at(i) != _NOT_BEGUN

    def began_at(self, i: int) -> int:
        """Iteration count at which phase `i` began; huge if it has not."""
        return int(as_array(self.begins[i]))

    def has_the_phases_of(self, other) -> bool:
        """Whether another learning rate is as many schedules of such shapes."""
        return isinstance(other, Joined) and self._shapes() == other._shapes()

    def _shapes(self):
        return [
            (type(s), getattr(s, "steps", None), getattr(s, "peak", None))
            for s in self.schedules
        ]

    def state(self) -> dict:
        """Where it stands, in numbers."""
        return {
            "begins": [self.began_at(i) for i in range(len(self.begins))],
            "discounts": [float(as_array(d)) for d in self.discounts],
            "notes": self.notes,
        }

    def set_state(self, state: dict) -> None:
        """Sets it to what `state` of one of as many phases returned."""
        for variable, value in zip(
            self.begins + self.discounts,
            state["begins"] + state["discounts"],
            strict=True,
        ):
            variable.assign(value)
        self._refresh()
        self.notes.update(state["notes"])

    def get_config(self):
        serialize = keras.optimizers.schedules.serialize
        replaced = self.replaced
        if isinstance(
            replaced, keras.optimizers.schedules.LearningRateSchedule
        ):
            replaced = serialize(replaced)
        return {
            "schedules": [serialize(schedule) for schedule in self.schedules],
            "begins": [
                self.began_at(i) if self.begun(i) else None
                for i in range(len(self.begins))
            ],
            "discounts": [float(as_array(d)) for d in self.discounts],
            "replaced": replaced,
            "notes": self.notes,
        }

    @classmethod
    def from_config(cls, config):
        # Not that of `keras.optimizers.schedules`: it takes a name that it
        # does not know for a string, where this refuses it.
        deserialize = keras.saving.deserialize_keras_object
        config = {**config}
        config["schedules"] = [deserialize(s) for s in config["schedules"]]
        if isinstance(config["replaced"], dict):
            config["replaced"] = deserialize(config["replaced"])
        return cls(**config)
