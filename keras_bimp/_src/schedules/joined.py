"""The one schedule that a run installs."""

import keras
from keras import ops

from keras_bimp._src.backends import as_array
from keras_bimp._src.backends import in_step
from keras_bimp._src.backends import known_number
from keras_bimp._src.schedules.discount import discount_variable

_NOT_BEGUN = 2**31 - 1


@keras.saving.register_keras_serializable(package="keras_bimp")
class Joined(keras.optimizers.schedules.LearningRateSchedule):
    """One schedule that follows several, each from a moment set at run time.

    Phase `i` runs once `begins[i]` holds the iteration count at its start. The
    compiled train step reads that variable and `discount`, so starting a phase
    retraces nothing.

    ```python
    rate = schedules[i](step - begins[i])  # i: the last phase that has begun
    ```

    Args:
        schedules: List of schedules, in the order in which they will begin.
        begins: Iteration counts at which phases began; `None` for a phase that
            has not. Defaults to the first phase at 0 and no other.
        discount: Scalar `keras.Variable` that phases that adapt read (see
            `ALLR`), or a float in [0, 1] to make one of.
        replaced: What the optimizer's learning rate was before, to be put back
            after the run: a float or a schedule.
        notes: Dict of strings and numbers that the run needs to go on.

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
        """Returns the rate at `step`, a scalar integer tensor."""
        step = ops.convert_to_tensor(step)
        if (now := known_number(step)) is not None:
            begins = self._begins()
            begun = [i for i, begin in enumerate(begins) if begin <= now]
            i = max(begun, default=0)
            return self.schedules[i](step - min(begins[i], now))
        begins = ops.cast(in_step(self.begins), step.dtype)
        rate = None
        for i, schedule in enumerate(self.schedules):
            of_phase = schedule(ops.maximum(step - begins[i], 0))
            begun = step >= begins[i]
            rate = ops.where(begun, of_phase, rate) if i else of_phase
        return rate

    @property
    def variables(self) -> list[keras.Variable]:
        """All that a step reads of it."""
        return [self.begins, self.discount]

    def begin(self, i: int, step: int) -> None:
        """Starts phase `i` at iteration count `step`."""
        begins = self._begins()
        begins[i] = step
        self.begins.assign(begins)

    def begun(self, i: int) -> bool:
        """Whether phase `i` has begun."""
        return self.began_at(i) != _NOT_BEGUN

    def began_at(self, i: int) -> int:
        """Iteration count at which phase `i` began; huge if it has not."""
        return self._begins()[i]

    def _begins(self):
        return as_array(self.begins).tolist()

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
            "begins": self._begins(),
            "discount": float(as_array(self.discount)),
            "notes": self.notes,
        }

    def set_state(self, state: dict) -> None:
        """Sets it to what `state` of one of as many phases returned."""
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
        # Not that of `keras.optimizers.schedules`: it takes a name that it
        # does not know for a string, where this refuses it.
        deserialize = keras.saving.deserialize_keras_object
        config = {**config}
        config["schedules"] = [deserialize(s) for s in config["schedules"]]
        if isinstance(config["replaced"], dict):
            config["replaced"] = deserialize(config["replaced"])
        return cls(**config)
