import json

import pytest
from helpers import GOLDEN
from hypothesis import given
from hypothesis import strategies as st

from keras_bimp._src.sparsity_schedules import pruned_weights
from keras_bimp.sparsity_schedules import geometric


def geometric_counts(total, target, cycles):
    cycles = [geometric(j / cycles, target) for j in range(1, cycles)]
    return pruned_weights(total, [*cycles, target])


def test_geometric_prunes_the_same_fraction_in_every_cycle():
    left = [1 - geometric(j / 4, 0.9375) for j in range(5)]
    assert left == pytest.approx([1, 0.5, 0.25, 0.125, 0.0625])


def test_counts_before_the_last_cycle_match_the_reference():
    rows = json.loads((GOLDEN / "allr_factors.json").read_text())
    rows = [row for row in rows if row["phase"] < row["J"]]
    assert len(rows) > 100
    for row in rows:
        counts = geometric_counts(row["n_prunable"], row["goal"], row["J"])
        assert counts[row["phase"] - 1] == row["zeros"]


@given(
    total=st.integers(1, 10**6),
    target=st.floats(0, 0.999),
    cycles=st.integers(1, 25),
)
def test_counts_end_exactly_and_never_fall(total, target, cycles):
    counts = geometric_counts(total, target, cycles)
    assert len(counts) == cycles
    assert counts[-1] == round(target * total)
    assert counts == sorted(counts)
    assert counts[0] >= 0


def test_counts_follow_any_sparsities():
    assert pruned_weights(1000, [0.1, 0.2, 0.2, 0.8]) == [100, 200, 200, 800]
    assert pruned_weights(1000, [0.5, 0.3]) == [300, 300]
