"""Evaluate a model without side effects."""

import keras
import numpy as np

from keras_bimp._src.backends import put_back
from keras_bimp._src.masking import given_metrics
from keras_bimp._src.masking import reset_given_metrics
from keras_bimp._src.masking import state_variables


def evaluate(model: keras.Model, given: dict) -> dict[str, float]:
    """Return the scalar metrics of a compiled model.

    Everything that the evaluation changes is restored: the model's metrics,
    and states other than weights, such as seeds of dropout that is active in
    inference.

    Args:
        model: A compiled model.
        given: Keyword arguments of `model.evaluate`.
    """
    weights = {id(variable) for variable in model.weights}
    states = [
        variable
        for variable in state_variables(model)
        if id(variable) not in weights
    ]
    states += model.metrics_variables
    for metric in given_metrics(model):
        states += metric.variables
    with put_back(states):
        # Keras does not reset them before the first batch, but they may
        # already hold counts, for example of another model.
        reset_given_metrics(model)
        logs = model.evaluate(
            **batched(model, given), verbose=0, return_dict=True
        )
        model.reset_metrics()  # Including those created just now.
    return scalars(logs)


def batched(model: keras.Model, given: dict) -> dict:
    """Return arguments of `evaluate` with the batch size that a model fixes.

    Args:
        model: A model, for example with stateful recurrent layers.
        given: Keyword arguments of `model.evaluate`; arrays if `y` is there.
    """
    size = fixed_batch_size(model)
    if size is None or given.get("y") is None or given.get("batch_size"):
        return given
    return {**given, "batch_size": size}


def fixed_batch_size(model: keras.Model) -> int | None:
    """Return the only batch size that a model accepts, or `None`."""
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    sizes = {x.shape[0] for x in inputs if x.shape}
    return next(iter(sizes)) if len(sizes) == 1 else None


def scalars(logs: dict) -> dict[str, float]:
    """Return the scalar entries of logs."""
    return {
        name: float(value)
        for name, value in logs.items()
        if np.ndim(value) == 0
    }
