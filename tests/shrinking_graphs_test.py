"""Shrunk random graphs compute what the pruned ones do, or are refused.

`SHRINKING_GRAPHS=300` tries as many.
"""

import contextlib
import os

import keras
import numpy as np
import pytest
from random_graphs import pruned_graph

import keras_bimp

GRAPHS = int(os.environ.get("SHRINKING_GRAPHS", "16"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(0, GRAPHS, 8))
def test_outputs_are_the_same(seed):
    smaller, seeds = 0, range(seed, min(seed + 8, GRAPHS))
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
    assert smaller >= 3 * len(seeds) // 8
