"""How long predictions take."""

import functools

import keras
import numpy as np

from keras_bimp._src.interleaved_timing import in_turns
from keras_bimp._src.reporting.copies import examples
from keras_bimp._src.reporting.facts import TimeFacts

_SECONDS = 4.0  # For all rounds of one size of batch,
_ROUNDS = (5, 100)  # but so many at least, and at most.


def prediction_times(
    copies: list[keras.Model],
    input_shape=None,
    batch_sizes: tuple[int, ...] = (1, 32),
) -> list[TimeFacts]:
    """Times `predict_on_batch` of a model, in turns with that of another.

    Args:
        copies: What `plain_copy` returned for the model and, if there is one,
            for the dense model.
        input_shape: See `count_macs`.
        batch_sizes: Examples per batch. A model that fixes it is timed at
            its own.
    """
    found = {}
    for batch_size in batch_sizes:
        batches = [examples(copy, batch_size, input_shape) for copy in copies]
        size = keras.tree.flatten(batches[0])[0].shape[0]
        if size in found:
            continue
        seconds = in_turns(
            [
                functools.partial(copy.predict_on_batch, *batch)
                for copy, batch in zip(copies, batches, strict=True)
            ],
            _SECONDS,
            _ROUNDS,
        )
        beside = len(copies) > 1
        found[size] = TimeFacts(
            size,
            _spread(seconds[0]),
            _spread(seconds[1]) if beside else None,
            _spread(seconds[1] / seconds[0]) if beside else None,
        )
    return list(found.values())


def _spread(seconds):
    median, low, high = np.percentile(seconds, (50, 25, 75))
    return float(median), float(low), float(high)
