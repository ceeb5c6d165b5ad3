"""How long predictions take."""

import functools
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

from keras_bimp.metrics.tracing import input_specs
from keras_bimp.reporting.copies import plain_copy
from keras_bimp.reporting.facts import TimeFacts

_WARM = 5
_SECONDS = 4.0  # For all rounds of one size of batch.
_ROUNDS = (10, 100)


def prediction_times(
    model: keras.Model,
    dense: keras.Model | None = None,
    batch_sizes: tuple[int, ...] = (1, 32),
    input_shape=None,
) -> tuple[list[TimeFacts], list[tuple[str, str]]]:
    """Times `predict_on_batch`, in turns with that of the dense model.

    Args:
        model: A built model: plain, wrapped or stripped.
        dense: The dense model, or `None`.
        batch_sizes: Examples per batch.
        input_shape: See `count_flops`.

    Returns:
        A `TimeFacts` for each size of batch, and pairs of what could not be
        measured and why.
    """
    models = [model] if dense is None else [model, dense]
    try:
        copies = []
        for each in models:
            with tempfile.TemporaryDirectory() as folder:
                copies.append(plain_copy(each, Path(folder)))
        specs = input_specs(model, input_shape)
    except ValueError as error:
        return [], [("Times of predictions", str(error))]
    found = []
    for batch_size in batch_sizes:
        batch = _batch(specs, batch_size)
        seconds = _in_turns(
            [functools.partial(each.predict_on_batch, batch) for each in copies]
        )
        found.append(
            TimeFacts(
                batch_size,
                _spread(seconds[0]),
                None if dense is None else _spread(seconds[1]),
                None if dense is None else _spread(seconds[1] / seconds[0]),
            )
        )
    return found, []


def _batch(specs, size):
    batch = keras.tree.map_structure(lambda spec: _examples(spec, size), specs)
    return batch[0] if len(batch) == 1 else batch


def _in_turns(functions):
    """Seconds of each call: one row per function, one column per round."""
    for function in functions:
        for _ in range(_WARM):
            function()
    begin = time.perf_counter()
    rows = []
    while len(rows) < _ROUNDS[1] and (
        len(rows) < _ROUNDS[0] or time.perf_counter() - begin < _SECONDS
    ):
        row = []
        # Who comes first changes from round to round.
        order = range(len(functions))
        for i in order if len(rows) % 2 else reversed(order):
            start = time.perf_counter()
            functions[i]()
            row.append((i, time.perf_counter() - start))
        rows.append([seconds for _, seconds in sorted(row)])
    return np.array(rows).T


def _spread(seconds):
    median, low, high = np.percentile(seconds, (50, 25, 75))
    return float(median), float(low), float(high)


def _examples(spec, batch_size):
    shape = (batch_size, *spec.shape[1:])
    rng = np.random.default_rng(0)
    if "float" in spec.dtype:
        return rng.standard_normal(shape).astype(spec.dtype)
    return np.zeros(shape, spec.dtype)
