"""Read and replace the learning rate and step count of an optimizer."""

import keras
import numpy as np

from keras_bimp._src.backends import as_array
from keras_bimp._src.keras_internals.optimizer_state import counter_of
from keras_bimp._src.keras_internals.optimizer_state import rate_of
from keras_bimp._src.keras_internals.optimizer_state import replace_rate
from keras_bimp._src.keras_internals.optimizer_state import set_variables
from keras_bimp._src.schedules import Joined
from keras_bimp._src.schedules import schedule_values
from keras_bimp._src.slots import MULTI_OPTIMIZER
from keras_bimp._src.slots import innermost


def step_count(optimizer) -> int:
    """Return the step that the optimizer passes to its schedule next."""
    return int(as_array(counter_of(innermost(optimizer))))


def peak_rate(optimizer, steps: int) -> tuple[float, str]:
    """Return the largest learning rate of the optimizer's next steps.

    Args:
        optimizer: A compiled optimizer.
        steps: Integer >= 1, how many steps to look ahead.

    Returns:
        The tuple `(peak, source)`, where `source` is a description.

    Raises:
        ValueError: If there is no finite rate > 0.
    """
    optimizer = innermost(optimizer)
    if isinstance(optimizer, MULTI_OPTIMIZER):
        raise ValueError(
            "The model must be compiled with one learning rate. Received: "
            "MultiOptimizer, each of whose optimizers has its own. Use one "
            "optimizer, or prune in a custom training loop with `prune()`"
        )
    rate = rate_of(optimizer)
    start = step_count(optimizer)
    if isinstance(rate, Joined):
        # An interrupted run: look from where it began.
        if rate.begun(0):
            start = rate.began_at(0)
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
    """Make `joined` the learning rate, until `uninstall`.

    Returns:
        The previous learning rate: a variable, a schedule or a callable.
    """
    optimizer = innermost(optimizer)
    present = rate_of(optimizer)
    if isinstance(present, Joined):
        joined.replaced = present.replaced
    elif isinstance(present, keras.Variable):
        joined.replaced = float(as_array(present))
    else:
        joined.replaced = present
    optimizer.learning_rate = joined
    checkpointed = optimizer.variables
    if isinstance(joined.replaced, float):
        # In its old position, so that checkpoints stay compatible.
        checkpointed.insert(1, _rate_variable(optimizer, joined.replaced))
    set_variables(optimizer, optimizer.variables, checkpointed)
    return present


def uninstall(optimizer) -> None:
    """Restore the learning rate that `install` replaced."""
    optimizer = innermost(optimizer)
    present = rate_of(optimizer)
    if not isinstance(present, Joined):
        return
    variables = optimizer.variables
    if isinstance(present.replaced, float):
        rate = _rate_variable(optimizer, present.replaced)
        replace_rate(optimizer, rate)
        # Keras creates it right after the iteration count and saves variables
        # by position.
        variables.insert(1, rate)
    else:
        replace_rate(optimizer, present.replaced)
    set_variables(optimizer, variables)


def _rate_variable(optimizer, rate):
    with keras.name_scope(optimizer.name):
        return keras.Variable(
            rate,
            name="learning_rate",
            trainable=False,
            aggregation="only_first_replica",
        )
