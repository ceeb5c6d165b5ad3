"""The schedule that a run installs in the optimizer."""

import keras
import numpy as np
from keras import ops

from keras_bimp._src.backends import as_array
from keras_bimp._src.backends import in_step
from keras_bimp._src.backends import known_number
from keras_bimp._src.schedules.discount import discount_variable

_NOT_BEGUN = 2**31 - 1


@keras.saving.register_keras_serializable(package="keras_bimp")
class Joined(keras.optimizers.schedules.LearningRateSchedule):
    """Schedule that switches between several, at times set during the run.

    Phase `i` runs once `begins[i]` holds the iteration at its start. The
    compiled train step reads this variable and `discount`, so that starting a
    phase does not retrace it.

    ```python
    rate = schedules[i](step - begins[i])  # i: the last phase that has begun
    ```

    Args:
        schedules: List of schedules, in order.
        begins: Iterations at which the phases began; `None` for those that
            have not. By default only the first has begun, at 0.
        discount: Scalar `keras.Variable` that adaptive schedules read (see
            `ALLR`), or a float in [0, 1] for a new one.
        replaced: The optimizer's previous learning rate, to restore after the
            run: a float or a schedule.
        notes: Dict of strings and numbers that the run needs to resume.

    Example:

    >>> from keras_bimp._src.schedules import Joined
    >>> joined = Joined(
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
        discount=1.0,
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
        if len(begins) != count:
            raise ValueError(
                "`begins` must have one entry per schedule. Received: "
                f"schedules of length {count}, begins={begins}"
            )
        self.replaced = replaced
        self.notes = dict(notes or {})
        self.begins = keras.Variable(
            [_NOT_BEGUN if b is None else b for b in begins],
            dtype="int",
            trainable=False,
            autocast=False,
        )
        if not isinstance(discount, keras.Variable):
            discount = discount_variable(discount)
        self.discount = discount

    def __call__(self, step):
        """Return the rate at `step`, a scalar integer tensor."""
        step = ops.convert_to_tensor(step)
        if (now := known_number(step)) is not None:
            begins = self._begins()
            begun = [i for i, begin in enumerate(begins) if begin <= now]
            i = max(begun, default=0)
            return self.schedules[i](step - min(begins[i], now))
        begins = ops.cast(in_step(self.begins), step.dtype)
        phases = np.arange(len(self.schedules), dtype="int32")
        i = ops.max(ops.where(step >= begins, phases, 0))
        step = ops.maximum(step - ops.take(begins, i), 0)
        # Cycles may share a schedule, which is then computed once.
        different = {id(schedule): schedule for schedule in self.schedules}
        rates = [schedule(step) for schedule in different.values()]
        if len(rates) == 1:
            return rates[0]
        places = {key: place for place, key in enumerate(different)}
        which = np.array([places[id(s)] for s in self.schedules], "int32")
        return ops.take(ops.stack(rates), ops.take(which, i))

    @property
    def variables(self) -> list[keras.Variable]:
        """All variables that a train step reads."""
        return [self.begins, self.discount]

    def begin(self, i: int, step: int) -> None:
        """Start phase `i` at iteration `step`."""
        begins = self._begins()
        begins[i] = step
        self.begins.assign(begins)

    def begun(self, i: int) -> bool:
        """Return whether phase `i` has begun."""
        return self.began_at(i) != _NOT_BEGUN

    def began_at(self, i: int) -> int:
        """Return the iteration at which phase `i` began; huge if it has not."""
        return self._begins()[i]

    def _begins(self):
        return as_array(self.begins).tolist()

    def has_the_phases_of(self, other) -> bool:
        """Return whether another learning rate has matching schedules."""
        return isinstance(other, Joined) and self._shapes() == other._shapes()

    def _shapes(self):
        return [
            (type(s), getattr(s, "steps", None), getattr(s, "peak", None))
            for s in self.schedules
        ]

    def state(self) -> dict:
        """Return the current state as numbers."""
        return {
            "begins": self._begins(),
            "discount": float(as_array(self.discount)),
            "notes": self.notes,
        }

    def set_state(self, state: dict) -> None:
        """Restore a state that `state` returned for as many phases."""
        self.begins.assign(state["begins"])
        self.discount.assign(state["discount"])
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
                None if begin == _NOT_BEGUN else begin
                for begin in self._begins()
            ],
            "discount": float(as_array(self.discount)),
            "replaced": replaced,
            "notes": self.notes,
        }

    @classmethod
    def from_config(cls, config):
        # Not `keras.optimizers.schedules.deserialize`: it treats unknown names
        # as strings, where this one raises.
        deserialize = keras.saving.deserialize_keras_object
        config = {**config}
        config["schedules"] = [deserialize(s) for s in config["schedules"]]
        if isinstance(config["replaced"], dict):
            config["replaced"] = deserialize(config["replaced"])
        return cls(**config)
