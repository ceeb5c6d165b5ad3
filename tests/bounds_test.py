import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_bimp._src.selection.bounds import Bounds
from keras_bimp._src.selection.bounds import distribute
from keras_bimp._src.selection.bounds import scale


@st.composite
def problems(draw):
    """Draws sizes, bounds within them, and a budget within the bounds."""
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=6))
    lower, upper = [], []
    for size in sizes:
        ends = sorted(draw(st.tuples(*[st.integers(0, size)] * 2)))
        lower.append(ends[0])
        upper.append(ends[1])
    budget = draw(st.integers(sum(lower), sum(upper)))
    return sizes, Bounds(tuple(lower), tuple(upper)), budget


def check(kept, bounds, budget):
    assert sum(kept) == budget
    for low, n, high in zip(bounds.lower, kept, bounds.upper, strict=True):
        assert low <= n <= high


@given(problem=problems(), seed=st.integers(0, 99))
def test_ranked_shares_are_one_threshold_cut_off_at_the_bounds(problem, seed):
    sizes, bounds, budget = problem
    rng = np.random.default_rng(seed)
    ranks = np.split(rng.permutation(sum(sizes)), np.cumsum(sizes)[:-1])

    def share(free, left):
        pooled = np.sort(np.concatenate([ranks[i] for i in free]))
        threshold = pooled[len(pooled) - left] if left else np.inf
        return [int((ranks[i] >= threshold).sum()) for i in free]

    kept = distribute(share, bounds, budget)
    check(kept, bounds, budget)
    # Apart from the bounds, it corresponds to a threshold, between the lowest
    # rank that is kept and the highest that is not.
    stays = [np.sort(r)[len(r) - n :] for r, n in zip(ranks, kept, strict=True)]
    goes = [np.sort(r)[: len(r) - n] for r, n in zip(ranks, kept, strict=True)]
    lowest = [
        s[0]
        for s, n, low in zip(stays, kept, bounds.lower, strict=True)
        if n > low
    ]
    highest = [
        g[-1]
        for g, n, high in zip(goes, kept, bounds.upper, strict=True)
        if n < high
    ]
    assert not lowest or not highest or min(lowest) > max(highest)


@given(problem=problems(), seed=st.integers(0, 99))
def test_scaled_shares_meet_the_bounds_and_the_total(problem, seed):
    sizes, bounds, budget = problem
    rng = np.random.default_rng(seed)
    wanted = [int(rng.integers(0, size + 1)) for size in sizes]

    def share(free, left):
        return scale([wanted[i] for i in free], left, [sizes[i] for i in free])

    check(distribute(share, bounds, budget), bounds, budget)


@pytest.mark.parametrize(
    ("counts", "total", "expected"),
    [
        ([3, 5], 8, [3, 5]),
        ([3, 5], 16, [6, 10]),
        ([1, 1, 1], 2, [0, 1, 1]),
        ([2, 3, 5], 9, [2, 3, 4]),
        ([0, 0], 3, [1, 2]),
        ([4, 0], 0, [0, 0]),
    ],
)
def test_scale(counts, total, expected):
    assert scale(counts, total, [10, 20, 30][: len(counts)]) == expected


def test_too_little_and_too_much_at_once():
    # Shares of 9, 3 and 0: the first is 1 too large, the last 4 too small.
    # Once the last is corrected, the first is not too large.
    def share(free, left):
        return scale([[9, 3, 0][i] for i in free], left, [9] * len(free))

    bounds = Bounds((0, 0, 4), (8, 9, 9))
    assert distribute(share, bounds, 12) == [6, 2, 4]
    bounds = Bounds((0, 0, 1), (4, 9, 9))
    assert distribute(share, bounds, 12) == [4, 7, 1]
