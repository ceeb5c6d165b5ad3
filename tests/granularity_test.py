"""Filters, N:M and blocks: select() on arrays."""

import functools
import json

import numpy as np
import pytest
from helpers import GOLDEN
from helpers import golden_kernels
from hypothesis import given
from hypothesis import strategies as st

import keras_bimp
from keras_bimp.selection import NM
from keras_bimp.selection import Block
from keras_bimp.selection import Filter
from keras_bimp.selection import Layout
from keras_bimp.selection import Random

# As the references select: a kernel may lose all of its filters.
select = functools.partial(keras_bimp.select, on_collapse="ignore")


def removed(masks):
    """Returns the indices of pruned filters for each convolution."""
    gone = []
    for mask in masks:
        if mask.ndim == 4:
            alive = mask.any((0, 1, 2))
            # A filter is pruned as a whole or not at all.
            assert (mask.all((0, 1, 2)) == alive).all()
            gone.append(np.flatnonzero(~alive).tolist())
    return gone


@pytest.mark.parametrize("sparsity", [0.3, 0.4, 0.5, 0.8])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_filters_are_those_of_torch(norm, sparsity):
    golden = json.loads((GOLDEN / "filters.json").read_text())
    _, kernels = golden_kernels()
    masks = select(kernels, sparsity, granularity=Filter(norm))
    assert removed(masks) == golden[f"resnetish/{norm.upper()}/{sparsity}"]
    assert masks[-1].all()  # The dense kernel has no filters.


def test_filters_in_two_steps_are_those_of_torch():
    golden = json.loads((GOLDEN / "filters.json").read_text())
    golden = golden["resnetish/L2/iter2_0.5"]
    _, kernels = golden_kernels()
    first = select(kernels, golden["per_step_fraction"], granularity="filter")
    second = select(kernels, 0.5, granularity="filter", masks=first)
    assert removed(first) == [steps[0] for steps in golden["removed"]]
    assert removed(second) == [steps[1] for steps in golden["removed"]]


def test_filters_among_all_layers_and_at_random():
    kernels = [np.full((3, 3, 2, 4), 9.0), np.ones((3, 3, 4, 8))]
    gone = removed(
        select(kernels, 0.5, granularity="filter", allocation="global")
    )
    assert gone == [[], [0, 1, 2, 3, 4, 5]]
    gone = removed(
        select(kernels, 0.5, granularity="filter", criterion=Random(1))
    )
    assert [len(indices) for indices in gone] == [2, 4]
    assert gone[1] != [0, 1, 2, 3]


def test_random_filters_and_blocks_are_not_chosen_by_their_size():
    kernels = [np.ones((1, 1, 1, 64)), np.ones((3, 3, 64, 64))]
    for granularity in (Filter("l1"), Filter("l2"), Block((64, 1))):
        small, large = select(
            kernels,
            0.5,
            granularity=granularity,
            criterion=Random(0),
            allocation="global",
        )
        assert 0.3 < small.mean() < 0.7
        assert 0.3 < large.mean() < 0.7


def test_a_layer_keeps_a_filter():
    kernels = [np.ones((1, 1, 2, 3)), np.ones((1, 1, 3, 30))]
    masks = select(kernels, 0.9, granularity="filter")
    assert not masks[0].any()
    masks = select(kernels, 0.9, granularity="filter", on_collapse="protect")
    assert [len(indices) for indices in removed(masks)] == [2, 28]


def test_filters_of_transposed_and_depthwise_kernels():
    rng = np.random.default_rng(0)
    transposed = rng.standard_normal((2, 2, 6, 3))  # 6 out, 3 in.
    depthwise = rng.standard_normal((3, 3, 4, 2))  # 4 channels, 2 each.
    layouts = [Layout((3,), (2,), True), Layout((), (2, 3), True)]
    masks = select(
        [transposed, depthwise], 0.5, granularity="filter", layouts=layouts
    )
    norms = np.square(transposed).sum((0, 1, 3))
    expected = norms >= np.sort(norms)[3]
    assert (masks[0] == expected[:, None]).all()
    norms = np.square(depthwise).sum((0, 1))
    assert (masks[1] == (norms >= np.sort(norms, None)[4])).all()


@given(
    shape=st.sampled_from([(8, 3), (4, 1), (3, 3, 8, 5), (2, 12, 4), (16, 16)]),
    seed=st.integers(0, 99),
)
def test_2_of_4_along_the_inputs(shape, seed):
    kernel = np.random.default_rng(seed).standard_normal(shape)
    (mask,) = select([kernel], 0.5, granularity="2:4")
    groups = np.moveaxis(mask, -2, -1).reshape(-1, 4)
    assert (groups.sum(1) == 2).all()
    magnitudes = np.abs(np.moveaxis(kernel, -2, -1).reshape(-1, 4))
    ranks = magnitudes.argsort(1).argsort(1)
    np.testing.assert_array_equal(groups, ranks >= 2)


@pytest.mark.parametrize(("n", "m"), [(1, 2), (1, 4), (3, 4), (4, 8), (2, 3)])
def test_n_of_m(n, m):
    kernel = np.random.default_rng(0).standard_normal((3, 2 * m, 5))
    (mask,) = select([kernel], 1 - n / m, granularity=NM(n, m))
    groups = mask.reshape(3, 2, m, 5)
    assert (groups.sum(2) == n).all()


def test_a_last_group_that_is_short_is_filled_up_with_zeros():
    kernel = np.arange(1.0, 8.0)[:, None]
    (mask,) = select([kernel], 0.5, granularity="2:4")
    assert mask[:, 0].tolist() == [False, False, True, True, False, True, True]
    (mask,) = select([kernel[:2]], 0.5, granularity="2:4")
    assert mask.all()


def test_equal_weights_of_a_group_lose_the_lower_index():
    (mask,) = select([np.ones((4, 2))], 0.5, granularity="2:4")
    assert mask.T.tolist() == [[False, False, True, True]] * 2
    (mask,) = select([np.ones((64, 1))], 0.5, granularity=NM(32, 64))
    assert mask[:, 0].tolist() == [False] * 32 + [True] * 32


def test_2_of_4_over_several_input_axes():
    # Like the output projection of attention: heads and their size are inputs.
    kernel = np.random.default_rng(0).standard_normal((2, 6, 5))
    layouts = [Layout((0, 1), (2,))]
    (mask,) = select([kernel], 0.5, granularity="2:4", layouts=layouts)
    assert (mask.reshape(3, 4, 5).sum(1) == 2).all()


def test_what_is_pruned_stays_pruned():
    rng = np.random.default_rng(0)
    kernels = [rng.standard_normal((3, 3, 8, 6)), rng.standard_normal((16, 6))]
    masks = select(kernels, 0.3)
    for granularity, sparsity in (
        ("filter", 0.5),
        ("2:4", 0.5),
        (Block((4, 1)), 0.5),
    ):
        after = select(kernels, sparsity, granularity=granularity, masks=masks)
        for old, new in zip(masks, after, strict=True):
            assert not (new & ~old).any()
        again = select(kernels, sparsity, granularity=granularity, masks=after)
        for old, new in zip(after, again, strict=True):
            np.testing.assert_array_equal(old, new)


def test_gradually_to_2_of_4():
    kernel = np.random.default_rng(0).standard_normal((16, 3))
    first = select([kernel], 0.25, granularity=NM(3, 4))
    second = select([kernel], 0.5, granularity=NM(2, 4), masks=first)
    np.testing.assert_array_equal(
        second[0], select([kernel], 0.5, granularity="2:4")[0]
    )


@given(
    shape=st.sampled_from([(8, 6), (3, 8, 4), (2, 2, 4, 6)]),
    block=st.sampled_from([(4, 1), (2, 2), (1, 2)]),
    seed=st.integers(0, 99),
)
def test_blocks(shape, block, seed):
    kernel = np.random.default_rng(seed).standard_normal(shape)
    (mask,) = select([kernel], 0.5, granularity=Block(block))

    def blocks(array):
        high, wide = block
        array = array.reshape(
            -1, shape[-2] // high, high, shape[-1] // wide, wide
        )
        return array.swapaxes(2, 3).reshape(-1, high * wide)

    kept = blocks(mask)
    assert (kept.all(1) == kept.any(1)).all()
    assert kept.all(1).sum() == len(kept) - round(0.5 * len(kept))
    means = np.abs(blocks(kernel)).mean(1)
    assert means[kept.all(1)].min() >= means[~kept.all(1)].max()


def test_blocks_at_the_edge_are_smaller():
    kernel = np.array([[1.0], [1.0], [1.0], [1.0], [2.0]])
    (mask,) = select([kernel], 0.5, granularity=Block((4, 1)))
    assert mask[:, 0].tolist() == [False] * 4 + [True]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (
            {"granularity": "2:4", "sparsity": 0.9},
            ValueError,
            r"`sparsity`.*0\.5",
        ),
        (
            {"granularity": "2:4", "allocation": "global"},
            ValueError,
            "`allocation`.*'global'",
        ),
        (
            {"granularity": "2:4", "max_layer_sparsity": 0.9},
            ValueError,
            "`max_layer_sparsity`",
        ),
        ({"granularity": "4:2"}, ValueError, "`n`.*n=4, m=2"),
        ({"granularity": "0:4"}, ValueError, "`n`"),
        ({"granularity": "filter"}, ValueError, "`granularity`.*kernel"),
        (
            {
                "granularity": "filter",
                "criterion": np.negative,
                "kernels": [np.ones((1, 2, 2))],
            },
            ValueError,
            "`criterion`.*>= 0",
        ),
    ],
)
def test_bad_arguments(arguments, error, text):
    arguments = {"kernels": [np.ones((4, 2))], "sparsity": 0.5, **arguments}
    with pytest.raises(error, match=text):
        select(**arguments)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Block(4), ValueError),
        (lambda: Block((4, 0)), ValueError),
        (lambda: Block((4, 1.5)), TypeError),
        (lambda: Filter("max"), ValueError),
        (lambda: NM(2, 2), ValueError),
        (lambda: NM(2.0, 4), TypeError),
        (lambda: Random(-1), ValueError),
    ],
)
def test_bad_parts(make, error):
    with pytest.raises(error):
        make()
