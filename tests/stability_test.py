"""Theoretical speedup and pruning stability."""

import math

import numpy as np
import pytest
from helpers import masked
from hypothesis import given
from hypothesis import strategies as st
from keras import layers
from macs_models import model_of

import keras_bimp
from keras_bimp.metrics import pruning_stability
from keras_bimp.metrics import theoretical_speedup


def test_theoretical_speedup():
    model = keras_bimp.wrap(
        model_of(lambda x: layers.Dense(2)(layers.Conv1D(3, 2)(x)), (None, 4))
    )
    assert theoretical_speedup(model, (None, 2, 4)) == 1.0
    convolution, dense = masked(model).masks
    convolution.assign(np.arange(24).reshape(2, 4, 3) < 6)
    dense.assign(np.arange(6).reshape(3, 2) < 3)
    for steps in (2, 9):  # Both have the same number of positions.
        speedup = theoretical_speedup(model, (None, steps, 4))
        assert speedup == (24 + 6) / (6 + 3)
    convolution.assign(np.zeros((2, 4, 3)))
    dense.assign(np.zeros((3, 2)))
    assert theoretical_speedup(model, (None, 2, 4)) == math.inf


def test_theoretical_speedup_of_nothing():
    with pytest.raises(ValueError, match=r"`model`.*multiply-adds"):
        theoretical_speedup(model_of(layers.ReLU(), (4,)))


@given(
    before=st.floats(1e-3, 1), share=st.floats(0, 1.5, allow_subnormal=False)
)
def test_pruning_stability_is_the_share_that_survives(before, share):
    stability = pruning_stability(before, share * before)
    assert stability == pytest.approx(share, abs=1e-12)


def test_pruning_stability_matches_its_definition():
    # 1 - (t_pre - t_post) / t_pre of accuracies 93% and 31%.
    assert pruning_stability(0.93, 0.31) == pytest.approx(1 / 3)
    assert pruning_stability(93, 31) == pytest.approx(1 / 3)
    assert pruning_stability(0.5, 0.5) == 1
    assert pruning_stability(0.5, 0) == 0


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (0, 0.5, "`before`.*=0"),
        (-0.5, 0.5, "`before`.*=-0"),
        (math.nan, 0.5, "`before`.*=nan"),
        (0.5, -0.1, "`after`.*=-0"),
        (0.5, math.inf, "`after`.*=inf"),
    ],
)
def test_pruning_stability_refuses(before, after, message):
    with pytest.raises(ValueError, match=message):
        pruning_stability(before, after)


def test_pruning_stability_refuses_other_types():
    with pytest.raises(TypeError, match=r"`before`.*='0"):
        pruning_stability("0.5", 0.5)
    with pytest.raises(TypeError, match=r"`after`.*=None"):
        pruning_stability(0.5, None)
