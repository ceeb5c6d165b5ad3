"""Shrunk random graphs compute the same as the pruned ones, or are refused.

If whole units were pruned, all of them are removed. `SHRINKING_GRAPHS=300`
tries this many.
"""

import contextlib
import os

import jobs
import keras
import numpy as np
import pytest
from keras import layers
from random_graphs import pruned_graph
from random_graphs import wrapped_graph

import keras_bimp
from keras_bimp._src.backends import as_array

# The axis of the outputs in a kernel.
OUT = {
    layers.Conv1D: -1,
    layers.Conv2D: -1,
    layers.Conv2DTranspose: -2,
    layers.Dense: -1,
}
GRAPHS = int(os.environ.get("SHRINKING_GRAPHS", "16"))
SEEDS = jobs.first_and_slow(range(0, GRAPHS, 4), [0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", SEEDS)
def test_outputs_are_the_same(seed):
    smaller, seeds = 0, range(seed, min(seed + 4, GRAPHS))
    for each in seeds:
        keras.backend.clear_session()
        model = pruned_graph(each)
        weights = model.get_weights()
        with contextlib.suppress(ValueError):
            shrunk = None
            shrunk = keras_bimp.shrink(model, align=(1, 1, 4)[each % 3])
        if shrunk is None:
            continue
        smaller += 1
        for before, after in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(before, after)
        assert shrunk.count_params() < model.count_params()
        rng = np.random.default_rng(each)
        x = rng.normal(size=(3, *model.input_shape[1:])).astype("float32")
        for y, other in zip(model(x), shrunk(x), strict=True):
            y, other = map(keras.ops.convert_to_numpy, (y, other))
            scale = np.abs(y).max()
            np.testing.assert_allclose(other, y, rtol=0, atol=1e-5 * scale)
    assert smaller >= len(seeds) // 2


def outputs_left(layer):
    """Counts the outputs of a layer that are not all zeros."""
    kernel = as_array(layer.kernel)
    if isinstance(layer, layers.Conv2DTranspose):
        kernel = np.swapaxes(kernel, -1, -2)
    return int(kernel.reshape(-1, kernel.shape[-1]).any(0).sum())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", SEEDS)
def test_all_units_that_were_pruned_go(seed):
    gone, seeds = 0, range(seed, min(seed + 4, GRAPHS))
    for each in seeds:
        keras.backend.clear_session()
        wrapped = wrapped_graph(each)
        pruning = None
        with contextlib.suppress(ValueError):  # It has no removable unit.
            pruning = keras_bimp.prune(wrapped, 0.5, granularity="unit")
        if pruning is None or all(
            left == total for left, total in pruning.units.values()
        ):
            continue
        pruned = keras_bimp.strip(wrapped)
        small = keras_bimp.shrink(pruned, align=1)
        rng = np.random.default_rng(each)
        x = rng.normal(size=(3, *pruned.input_shape[1:])).astype("float32")
        for y, other in zip(
            *(keras.tree.flatten(model(x)) for model in (pruned, small)),
            strict=True,
        ):
            y, other = map(keras.ops.convert_to_numpy, (y, other))
            scale = np.abs(y).max()
            np.testing.assert_allclose(other, y, rtol=0, atol=1e-5 * scale)
        for layer, less in zip(
            pruned._flatten_layers(), small._flatten_layers(), strict=True
        ):
            if type(layer) in OUT:
                left = less.kernel.shape[OUT[type(less)]]
                assert outputs_left(layer) == left
                gone += left < layer.kernel.shape[OUT[type(layer)]]
    assert gone >= len(seeds)
