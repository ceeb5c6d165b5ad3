"""What a run needs of an optimizer: its learning rate and its count."""

import keras
import numpy as np

from keras_bimp.backends import as_array
from keras_bimp.backends import backend
from keras_bimp.schedules import Joined
from keras_bimp.schedules import schedule_values
from keras_bimp.slots import MULTI_OPTIMIZER
from keras_bimp.slots import innermost


def step_count(optimizer) -> int:
    """The count that the optimizer calls its schedule with next."""
    # Not `iterations`: gradient accumulation divides that.
    return int(as_array(innermost(optimizer)._iterations))


def peak_rate(optimizer, steps: int) -> tuple[float, str]:
    """The largest learning rate the optimizer yields in its next steps.

    Args:
        optimizer: A compiled optimizer.
        steps: Integer >= 1, how many steps to look ahead.

    Returns:
        The tuple `(peak, source)`, source in words.

    Raises:
        ValueError: If there is no finite rate > 0.
    """
    optimizer = innermost(optimizer)
    if isinstance(optimizer, MULTI_OPTIMIZER):
        raise ValueError(
            "The model must be compiled with one learning rate. Received: "
            "MultiOptimizer, each of whose optimizers has its own. Use one "
            "optimizer, or prune in a loop of your own with `prune()`"
        )
    rate = optimizer._learning_rate
    start = step_count(optimizer)
    if isinstance(rate, Joined):
        # A run that was left in its midst: look from where it began.
        if rate.begun(0):
            start = int(as_array(rate.begins[0]))
        rate = rate.replaced
    source = f"learning rate of {type(optimizer).__name__}"
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        source = f"largest of {type(rate).__name__} over the run"
        peak = schedule_values(rate, steps, start).max()
    else:
        if isinstance(rate, keras.Variable):
            rate = as_array(rate)
        peak = float(rate() if callable(rate) else rate)
        # The shortest decimal that float32 rounds to: 0.1, not 0.100000001.
        peak = float(str(np.float32(peak)))
    if not (np.isfinite(peak) and peak > 0):
        raise ValueError(
            "The compiled optimizer must have a finite learning rate > 0, "
            f"from which the schedules start. Received: {peak} ({source})"
        )
    return float(peak), source


def install(optimizer, joined: Joined):
    """Makes `joined` the learning rate, until `uninstall`.

    Returns:
        What the learning rate was: a variable, a schedule or a callable.
    """
    optimizer = innermost(optimizer)
    present = optimizer._learning_rate
    if isinstance(present, Joined):
        joined.replaced = present.replaced
    elif isinstance(present, keras.Variable):
        joined.replaced = float(as_array(present))
    else:
        joined.replaced = present
    optimizer.learning_rate = joined
    checkpointed = list(optimizer._variables)
    if isinstance(joined.replaced, float):
        # In its place, so that a checkpoint fits an optimizer before or after.
        checkpointed.insert(1, _rate_variable(optimizer, joined.replaced))
    _set_variables(optimizer, optimizer._variables, checkpointed)
    return present


def uninstall(optimizer) -> None:
    """Puts the learning rate back that `install` replaced."""
    optimizer = innermost(optimizer)
    present = optimizer._learning_rate
    if not isinstance(present, Joined):
        return
    variables = list(optimizer._variables)
    if isinstance(present.replaced, float):
        rate = _rate_variable(optimizer, present.replaced)
        optimizer._learning_rate = rate
        # Keras creates it right after the iteration count and saves by
        # position.
        variables.insert(1, rate)
    else:
        optimizer._learning_rate = present.replaced
    _set_variables(optimizer, variables, variables)


def _rate_variable(optimizer, rate):
    with keras.name_scope(optimizer.name):
        return keras.Variable(
            rate,
            name="learning_rate",
            trainable=False,
            aggregation="only_first_replica",
        )


def _set_variables(optimizer, variables, checkpointed):
    """Sets the variables of an optimizer, and those of a TensorFlow checkpoint.

    TensorFlow refuses to save a list of which anything but its end was
    changed, as Keras does with this one where a schedule replaces a rate.
    """
    variables = list(variables)
    store = optimizer._tracker.config
    store["variables"] = (store["variables"][0], variables)
    if backend() != "tensorflow":
        vars(optimizer)["_variables"] = variables
        return
    import tensorflow as tf

    tracking = tf.__internal__.tracking
    if checkpointed == variables:
        # One list: variables that are made later are in both.
        variables = checkpointed = tracking.wrap(variables)
        store["variables"] = (store["variables"][0], variables)
    else:
        checkpointed = tracking.wrap(checkpointed)
    vars(optimizer)["_variables"] = variables
    optimizer._track_trackable(checkpointed, "_variables", overwrite=True)
