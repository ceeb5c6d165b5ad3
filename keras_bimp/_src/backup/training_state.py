"""Read and restore the variables of a model and its optimizer."""

import keras
import numpy as np

from keras_bimp._src.backends import as_array
from keras_bimp._src.backends import numpy_dtype
from keras_bimp._src.backends import strategy_scope
from keras_bimp._src.keras_internals.optimizer_state import added_state
from keras_bimp._src.keras_internals.optimizer_state import rate_of
from keras_bimp._src.masking import state_variables
from keras_bimp._src.slots import leaves


def build_optimizer(model: keras.Model) -> None:
    """Create the optimizer's variables, if the first step has not."""
    if model.optimizer is not None and not model.optimizer.built:
        with strategy_scope(model):
            model.optimizer.build(model.trainable_variables)


def read_training(model: keras.Model) -> dict:
    """Return all variables of a model and its optimizer as arrays.

    This includes masks, moving statistics and seeds. Learning rates, which a
    schedule may have replaced, are kept separately.
    """
    # No copies, because they are written immediately.
    return {
        "variables": _read(_variables(model), copy=False),
        "slots": _read(_slots(model.optimizer), copy=False),
        "rates": _read(_rates(model.optimizer)),
    }


def set_training(model: keras.Model, state: dict) -> None:
    """Restore all variables to the state of `read_training`."""
    _set(_variables(model), state["variables"])
    _set(_slots(model.optimizer), state["slots"])
    rates = _rates(model.optimizer)
    if len(rates) == len(state["rates"]):
        _set(rates, state["rates"])


def check_training(model: keras.Model, state: dict) -> None:
    """Raise ValueError if a state is of another model or optimizer."""
    for what, variables, arrays in (
        ("model", _variables(model), state["variables"]),
        ("optimizer", _slots(model.optimizer), state["slots"]),
    ):
        if len(variables) != len(arrays):
            raise ValueError(
                f"a state of a {what} with {len(arrays)} variables, while "
                f"this one has {len(variables)}"
            )
        for variable, array in zip(variables, arrays, strict=True):
            if tuple(variable.shape) != array.shape:
                raise ValueError(
                    f"a state of another {what}, with a variable of shape "
                    f"{array.shape} where {variable.path} has "
                    f"{tuple(variable.shape)}"
                )
            if numpy_dtype(variable) != array.dtype:
                raise ValueError(
                    f"a state of another {what}, with a variable of type "
                    f"{array.dtype} where {variable.path} has "
                    f"{variable.dtype}"
                )


def read_metrics(model: keras.Model) -> list[np.ndarray]:
    """Return the state of the metrics in the current epoch."""
    return _read(_parts(model.metrics_variables))


def set_metrics(model: keras.Model, arrays: list[np.ndarray]) -> None:
    """Restore the metrics to the state of `read_metrics`."""
    _set(_parts(model.metrics_variables), arrays)


def _rates(optimizer):
    if optimizer is None:
        return []
    rates = [rate_of(leaf) for leaf in leaves(optimizer)]
    return [rate for rate in rates if isinstance(rate, keras.Variable)]


def _slots(optimizer):
    if optimizer is None:
        return []
    left_out = {id(rate) for rate in _rates(optimizer)}
    for leaf in leaves(optimizer):
        left_out |= {id(variable) for variable in added_state(leaf)}
    return [v for v in optimizer.variables if id(v) not in left_out]


def _read(variables, copy=True):
    return [as_array(variable, copy) for variable in variables]


class _OfOneReplica:
    """One replica's copy of a variable that each replica holds."""

    def __init__(self, variable, value):
        self.value = value
        self.shape, self.dtype = variable.shape, variable.dtype
        self.path = variable.path
        self.assign = value.assign


def _parts(variables):
    """Return variables, with per-replica ones listed once per replica.

    Under a `tf.distribute` strategy, moving statistics and metrics are per
    replica: reading them normally returns the first replica's, or the sum.
    """
    parts = []
    for variable in variables:
        each = getattr(variable.value, "values", None)
        floats = keras.backend.is_float_dtype(variable.dtype)
        if isinstance(each, tuple) and floats and not variable.trainable:
            parts += [_OfOneReplica(variable, value) for value in each]
        else:
            parts.append(variable)
    return parts


def _variables(model):
    return _parts(state_variables(model))


def _set(variables, arrays):
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
