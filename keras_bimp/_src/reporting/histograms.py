"""How the weights are distributed, before and after."""

import math

import keras
import numpy as np

from keras_bimp._src.metrics import EffectiveKernels
from keras_bimp._src.reporting.facts import Histogram
from keras_bimp._src.reporting.report_kernels import kernels_of

_BINS = 60


def histogram(
    model: keras.Model, dense: keras.Model | None = None
) -> Histogram | None:
    """Counts the weights in the kernels that are not 0, by value.

    Args:
        model: A built model.
        dense: The same before it was pruned, or `None`.

    Returns:
        A `Histogram`; `None` if all weights are 0, or some are not finite.
    """
    ours = _weights(model)
    theirs = None if dense is None else _weights(dense)
    limit = max(
        (
            float(np.quantile(np.abs(array), 0.999))
            for array in (*ours, *(theirs or ()))
            if array.size
        ),
        default=0.0,
    )
    if not (limit > 0 and math.isfinite(limit)):
        return None
    edges = np.linspace(-limit, limit, _BINS + 1)
    return Histogram(
        tuple(edges.tolist()),
        _counts(ours, edges),
        None if theirs is None else _counts(theirs, edges),
    )


def _weights(model):
    """The entries that are not 0, one array per kernel."""
    effective = EffectiveKernels(model)
    arrays = [
        keras.ops.convert_to_numpy(effective.value(kernel.variable))
        for kernel in kernels_of(model)
    ]
    return [array[array != 0].astype("float32") for array in arrays]


def _counts(arrays, edges):
    counts = np.zeros(_BINS, int)
    for array in arrays:
        # What lies beyond counts at the edge.
        clipped = np.clip(array, edges[0], edges[-1])
        counts += np.histogram(clipped, edges)[0]
    return tuple(counts.tolist())
