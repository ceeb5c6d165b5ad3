"""Evaluating a model without leaving a trace in it."""

import keras
import numpy as np

from keras_bimp._src.backends import put_back
from keras_bimp._src.masking import given_metrics
from keras_bimp._src.masking import reset_given_metrics
from keras_bimp._src.masking import state_variables


def evaluate(model: keras.Model, given: dict) -> dict[str, float]:
    """The metrics of a compiled model that are one number.

    What an evaluation changes is set back: the model's metrics, and states
    that are no weights, as the seeds of a dropout that is active in inference.

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
        # Keras resets none before the first batch: another model may count
        # too.
        reset_given_metrics(model)
        logs = model.evaluate(
            **batched(model, given), verbose=0, return_dict=True
        )
        model.reset_metrics()  # Those that were made just now, too.
    return scalars(logs)


def batched(model: keras.Model, given: dict) -> dict:
    """Arguments of `evaluate`, with the size of batches that a model fixes.

    Args:
        model: A model, as one whose recurrent layers are stateful.
        given: Keyword arguments of `model.evaluate`; arrays if `y` is there.
    """
    size = fixed_batch_size(model)
    if size is None or given.get("y") is None or given.get("batch_size"):
        return given
    return {**given, "batch_size": size}


def fixed_batch_size(model: keras.Model) -> int | None:
    """The size of batches that a model is built for, if it is one only."""
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    sizes = {x.shape[0] for x in inputs if x.shape}
    return next(iter(sizes)) if len(sizes) == 1 else None


def scalars(logs: dict) -> dict[str, float]:
    """Those entries of logs that are one number."""
    return {
        name: float(value)
        for name, value in logs.items()
        if np.ndim(value) == 0
    }
