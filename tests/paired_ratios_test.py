"""Ratios of interleaved measurements."""

import numpy as np
import pytest
from from_examples import STUDY
from from_examples import importable


@pytest.fixture(scope="module")
def paired():
    with importable(STUDY):
        import paired_ratios

        yield paired_ratios


def test_a_steady_drift_of_the_machine_cancels(paired):
    turns = []

    def seconds_of(slowness):
        turns.append(slowness)
        return slowness * 1.05 ** len(turns)

    things = {"dense": 1.0, "half": 2.0, "same": 1.0}
    seconds, times_as_fast = paired.take_turns(things, 7, seconds_of)
    np.testing.assert_allclose(times_as_fast["half"], [0.5] * 7)
    np.testing.assert_allclose(times_as_fast["same"], [1.0] * 7)
    assert [len(seconds[name]) for name in things] == [14, 7, 7]
    # The first before and after each of the others.
    assert turns[::2] == [1.0] * 15
    assert sorted(turns[1::2]) == [1.0] * 7 + [2.0] * 7


def test_the_interval_holds_the_median_as_often_as_it_says(paired):
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        low, high = paired.bootstrap(rng.normal(1, 0.1, 60), draws=300)
        held += low <= 1 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_the_table(paired):
    seconds = {"dense": [0.5, 0.5], "slow": [1.0, 1.0]}
    lines = paired.table(seconds, {"slow": [0.5, 0.5]}, 100).splitlines()
    assert lines[2] == "| dense | 200 | 1 |  |"
    assert lines[3] == "| slow | 100 | 0.500 [0.500, 0.500] | 0.500, 0.500 |"
