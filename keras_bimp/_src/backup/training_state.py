"""What a model and its optimizer are, read and set back."""

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
    """Makes the variables of the optimizer, if the first step is to do so."""
    if model.optimizer is not None and not model.optimizer.built:
        with strategy_scope(model):
            model.optimizer.build(model.trainable_variables)


def read_training(model: keras.Model) -> dict:
    """All variables of a model and of its optimizer, as arrays.

    Masks, moving statistics and seeds among them. Learning rates, which a
    schedule may have replaced, are kept apart.
    """
    # No copies: they are for writing at once.
    return {
        "variables": _read(_variables(model), copy=False),
        "slots": _read(_slots(model.optimizer), copy=False),
        "rates": _read(_rates(model.optimizer)),
    }


def set_training(model: keras.Model, state: dict) -> None:
    """Sets all variables to what `read_training` returned."""
    _set(_variables(model), state["variables"])
    _set(_slots(model.optimizer), state["slots"])
    rates = _rates(model.optimizer)
    if len(rates) == len(state["rates"]):
        _set(rates, state["rates"])


def check_training(model: keras.Model, state: dict) -> None:
    """Raises ValueError if a state is that of another model or optimizer."""
    for what, variables, arrays in (
        ("model", _variables(model), state["variables"]),
        ("optimizer", _slots(model.optimizer), state["slots"]),
    ):
        if len(variables) != len(arrays):
            raise ValueError(
                f"one of a {what} with {len(arrays)} variables, where this "
                f"has {len(variables)}"
            )
        for variable, array in zip(variables, arrays, strict=True):
            if tuple(variable.shape) != array.shape:
                raise ValueError(
                    f"one of another {what}, with a variable of shape "
                    f"{array.shape} where {variable.path} has "
                    f"{tuple(variable.shape)}"
                )
            if numpy_dtype(variable) != array.dtype:
                raise ValueError(
                    f"one of another {what}, with a variable of type "
                    f"{array.dtype} where {variable.path} has "
                    f"{variable.dtype}"
                )


def read_metrics(model: keras.Model) -> list[np.ndarray]:
    """What the metrics of the running epoch have counted."""
    return _read(_parts(model.metrics_variables))


def set_metrics(model: keras.Model, arrays: list[np.ndarray]) -> None:
    """Sets the metrics to what `read_metrics` returned."""
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
    """What one replica has of a variable that each has for itself."""

    def __init__(self, variable, value):
        self.value = value
        self.shape, self.dtype = variable.shape, variable.dtype
        self.path = variable.path
        self.assign = value.assign


def _parts(variables):
    """Variables; those that each replica has for itself one by one.

    Under a `tf.distribute` strategy these are moving statistics and metrics: a
    reader sees those of the first replica, or their sum.
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
