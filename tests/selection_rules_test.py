"""Rules of `select`: allocations, floors, maximums, and errors."""

import numpy as np
import pytest
from selection_cases import EVERY
from selection_cases import assert_equal
from selection_cases import oracle
from selection_cases import select

import keras_bimp
from keras_bimp._src import selection
from keras_bimp.selection import Layout
from keras_bimp.selection import Ranking


def test_equal_magnitudes_lose_the_lower_indices_first():
    kernels = [np.ones((2, 2)), -np.ones((1, 4))]
    first, second = select(kernels, 0.75)
    assert not first.any()
    assert second.tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("allocation", EVERY)
def test_kernels_without_weights_or_with_zeros_only(allocation):
    kernels = [np.ones((0, 3)), np.zeros((400, 300)), np.ones((3, 0, 2, 2))]
    masks = select(kernels, 0.9, allocation=allocation, on_collapse="protect")
    assert [m.shape for m in masks] == [k.shape for k in kernels]
    assert masks[1].ravel().nonzero()[0].tolist() == list(range(108000, 120000))
    assert select([], 0.5, allocation=allocation) == []


def test_lamp_scores_by_hand():
    # 1 / (1 + 4 + 4), 4 / (4 + 4) for both that are equal.
    scores = selection.allocations.lamp(np.array([[1.0, 2.0, 2.0]]))
    np.testing.assert_allclose(scores, [[1 / 9, 1 / 2, 1 / 2]])
    scores = selection.allocations.lamp(np.array([3.0, -np.inf, 4.0]))
    np.testing.assert_allclose(scores, [9 / 25, 0, 1])


@pytest.mark.parametrize("allocation", ["lamp", "relative"])
def test_the_scale_of_a_kernel_does_not_matter(allocation):
    kernels = [np.random.default_rng(i).standard_normal((9, 7)) for i in (0, 1)]
    masks = select(kernels, 0.8, allocation=allocation)
    scaled = [kernels[0] * 1e-3, kernels[1] * 50]
    assert_equal(select(scaled, 0.8, allocation=allocation), masks)
    assert not select(scaled, 0.8)[0].any()


def test_uniform_plus_spares_the_first_convolution_and_the_last_dense():
    kernels = [
        np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
        for shape in ((2, 5), (3, 3, 1, 2), (3, 3, 2, 5), (10, 2))
    ]
    masks = select(kernels, 0.8, allocation="uniform_plus")
    # 138 weights, 110 to prune: 16 of the last 20, 94 of the other 100.
    assert [int(m.sum()) for m in masks] == [1, 18, 5, 4]


def test_uniform_plus_says_when_it_cannot():
    with pytest.raises(ValueError, match="uniform_plus"):
        select(
            [np.ones((3, 3, 4, 4)), np.ones((4, 2))],
            0.9,
            allocation="uniform_plus",
        )


def uneven():
    """Returns a kernel that global pruning would empty, and a strong one."""
    rng = np.random.default_rng(0)
    weak = 1e-3 * rng.standard_normal((10, 5))
    strong = rng.standard_normal((40, 5))
    return [weak, strong]


def test_protect_keeps_one_weight_per_output_unit_and_the_total():
    kernels = uneven()
    ignored = select(kernels, 0.9)
    assert [int(m.sum()) for m in ignored] == [0, 25]
    protected = select(kernels, 0.9, on_collapse="protect")
    assert [int(m.sum()) for m in protected] == [5, 20]
    largest = np.sort(np.abs(kernels[0]).ravel())[-5:]
    np.testing.assert_array_equal(
        np.sort(np.abs(kernels[0])[protected[0]]), largest
    )


def test_protect_takes_the_units_of_the_layout():
    weak, strong = uneven()
    kernels = [weak[:2], strong]
    protected = select(kernels, 0.9, on_collapse="protect")
    assert [int(m.sum()) for m in protected] == [5, 16]
    layouts = [Layout((1,), (0,)), Layout((0,), (1,))]
    protected = select(kernels, 0.9, on_collapse="protect", layouts=layouts)
    assert [int(m.sum()) for m in protected] == [2, 19]


def test_protect_repeats_until_no_kernel_is_below_its_floor():
    # Protecting the first kernel takes so many weights from the second that it
    # falls below its minimum.
    kernels = [
        np.full((1, 8), 0.1),
        np.linspace(1, 2, 12).reshape(2, 6),
        np.linspace(3, 4, 40).reshape(20, 2),
    ]
    masks = select(kernels, 1 - 16 / 60, on_collapse="protect")
    assert [int(m.sum()) for m in masks] == [8, 6, 2]


@pytest.mark.parametrize(
    "allocation", [*EVERY, lambda scores, sparsity: [0, 1, 11]]
)
def test_protect_with_every_allocation(allocation):
    rng = np.random.default_rng(0)
    kernels = [
        rng.standard_normal(shape) * scale
        for shape, scale in (((2, 3), 1e-4), ((4, 2), 1.0), ((30, 4), 1.0))
    ]
    ignored = select(kernels, 1 - 12 / 134, allocation=allocation)
    masks = select(
        kernels, 1 - 12 / 134, allocation=allocation, on_collapse="protect"
    )
    kept = [int(m.sum()) for m in masks]
    assert sum(kept) == sum(int(m.sum()) for m in ignored)
    assert all(n >= units for n, units in zip(kept, (3, 2, 4), strict=True))
    for kernel, mask, left in zip(kernels, masks, kept, strict=True):
        full = [np.ones(kernel.shape, bool)]
        assert_equal([mask], oracle([kernel], kernel.size - left, full))


def test_raise_names_the_kernel():
    with pytest.raises(ValueError, match=r"`on_collapse=.* 0 .*kernel 0"):
        select(uneven(), 0.9, on_collapse="raise")


@pytest.mark.parametrize("allocation", EVERY)
def test_no_kernel_exceeds_its_maximum_and_the_total_stays(allocation):
    kernels = [*uneven(), np.random.default_rng(2).standard_normal((25, 4))]
    before = select(kernels, 0.8, allocation=allocation)
    masks = select(
        kernels,
        0.8,
        allocation=allocation,
        max_layer_sparsity=[0.7, None, 0.5],
    )
    kept = [int(m.sum()) for m in masks]
    assert sum(kept) == sum(int(m.sum()) for m in before)
    assert kept[0] >= 15
    assert kept[2] >= 50


def test_one_maximum_for_all():
    # At least 10 of 50 and 20 of 100; global magnitudes would keep 0 and 30.
    kernels = [uneven()[0], np.ones((20, 5))]
    masks = select(kernels, 0.8, max_layer_sparsity=0.8)
    assert [int(m.sum()) for m in masks] == [10, 20]


def test_a_maximum_may_be_reached():
    # 0.29 * 100 is a little less than 29 in floating point.
    kernels = [np.zeros((10, 10)), np.ones((10, 10))]
    masks = select(kernels, 0.2, max_layer_sparsity=0.29)
    assert [int(m.sum()) for m in masks] == [71, 89]


def test_a_name_goes_before_a_regex():
    names = ["net/a/kernel", "net/ab/kernel", "net/b/kernel"]
    value = {"net/a": 0.1, "net/ab/kernel": 0.2}
    found = selection.by_kernel("argument", value, names)
    assert found == [0.1, 0.2, None]
    with pytest.raises(ValueError, match=r"`argument`.*'c'.*'net/a/kernel'"):
        selection.by_kernel("argument", {"c": 0.1}, names)


@pytest.mark.parametrize("allocation", EVERY)
def test_less_than_is_pruned_already_changes_nothing(allocation):
    kernels = uneven()
    masks = select(kernels, 0.77)
    after = select(kernels, 0.5, allocation=allocation, masks=masks)
    assert_equal(after, masks)


@pytest.mark.parametrize("allocation", EVERY)
def test_a_kernel_has_the_sparsity_it_is_told(allocation):
    kernels = [*uneven(), np.random.default_rng(2).standard_normal((25, 4))]
    before = select(kernels, 0.8, allocation=allocation)
    masks = select(
        kernels, 0.8, allocation=allocation, layer_sparsity=[0.0, None, 0.95]
    )
    kept = [int(m.sum()) for m in masks]
    assert (kept[0], kept[2]) == (50, 5)
    assert sum(kept) == sum(int(m.sum()) for m in before)


def test_uniform_plus_spares_what_it_need_not_take():
    # The smallest are in the first two, which has all weights to prune.
    kernels = [np.full((100, 10), 0.1), np.ones((10, 10)), np.ones((10, 10))]
    masks = select(kernels, 0.83)
    after = select(kernels, 0.83, allocation="uniform_plus", masks=masks)
    assert_equal(after, masks)


@pytest.mark.parametrize("bounds", [{}, {"on_collapse": "protect"}])
def test_uniform_plus_does_not_take_later_what_it_rounded(bounds):
    # 39 of 71 must be pruned; the numbers for 8, 48 and 15 round to 38.
    rng = np.random.default_rng(0)
    kernels = [rng.standard_normal(s) for s in ((8, 1), (8, 6), (5, 3))]
    arguments = {"allocation": "uniform_plus", **bounds}
    masks = select(kernels, 0.5556, **arguments)
    assert sum(int(m.sum()) for m in masks) == 33
    assert_equal(select(kernels, 0.5556, masks=masks, **arguments), masks)
    fewer = select(kernels, 0.65, masks=masks, **arguments)
    assert sum(int(m.sum()) for m in fewer) == 71 - 46


def test_a_told_sparsity_does_not_exceed_the_maximum_by_rounding():
    masks = select(
        [np.ones(10), np.ones(200)],
        0.5,
        max_layer_sparsity=0.75,
        layer_sparsity=[0.75, None],
    )
    # 7.5 would be rounded to 8.
    assert [int(m.sum()) for m in masks] == [3, 102]


def test_a_told_sparsity_that_would_collapse_can_be_repeated():
    kernels = [np.ones((3, 1)), np.ones((20, 1))]
    how = {"layer_sparsity": [0.85, None], "on_collapse": "protect"}
    masks = select(kernels, 0.5, **how)
    assert [int(m.sum()) for m in masks] == [1, 10]
    assert_equal(select(kernels, 0.5, masks=masks, **how), masks)


def test_bounds_are_by_kernel_also_where_some_do_not_count():
    kernels = [np.ones((5, 2)), np.ones((1, 2, 4)), np.ones((1, 2, 8))]
    masks = select(
        kernels,
        0.5,
        granularity="filter",
        layer_sparsity=[None, 0.25, None],
        max_layer_sparsity=[0.1, None, None],
    )
    assert [int(m.sum()) for m in masks] == [10, 6, 6]


@pytest.mark.parametrize("allocation", ["lamp", "relative"])
@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_the_largest_and_the_smallest_numbers(allocation, scale):
    kernels = [np.random.default_rng(i).standard_normal((9, 7)) for i in (0, 1)]
    masks = select(kernels, 0.8, allocation=allocation)
    scaled = [kernel * scale for kernel in kernels]
    assert_equal(select(scaled, 0.8, allocation=allocation), masks)


def test_random_depends_on_the_seed_and_the_place_only():
    kernels = [np.ones((20, 5)), np.arange(100.0).reshape(20, 5)]
    random = selection.Random(3)
    masks = select(kernels, 0.5, criterion=random)
    assert_equal(select([k * 2 for k in kernels], 0.5, criterion=random), masks)
    assert sum(m.sum() for m in masks) == 100
    other = select(kernels, 0.5, criterion=selection.Random(4))
    assert (masks[0] != other[0]).any()
    assert (masks[0] != masks[1]).any()
    fewer = select(kernels, 0.8, criterion=random)
    assert not (fewer[0] & ~masks[0]).any()


def test_saliency_is_weight_times_gradient():
    kernels = [np.array([[1.0, -2.0, 3.0]])]
    masks = select(
        kernels,
        0.6,
        criterion="saliency",
        gradients=[np.array([[-9.0, 1.0, 0.1]])],
    )
    assert masks[0].tolist() == [[True, False, False]]


def test_a_callable_criterion_and_allocation():
    kernels = [np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])]
    shapes = []

    def one_each(scores, sparsity):
        shapes.extend(score.shape for score in scores)
        return [1] * len(scores)

    masks = select(
        kernels,
        0.5,
        criterion=lambda kernel: -kernel,
        allocation=one_each,
    )
    assert [m.tolist() for m in masks] == [[[True, False]], [[True, False]]]
    assert shapes == [(1, 2), (1, 2)]


def test_a_ranking_of_ones_own():
    kernels = [np.array([[1.0, 4.0]]), np.array([[2.0, 3.0]])]
    first = Ranking(lambda scores: scores + (10 if scores.max() == 3 else 0))
    masks = select(kernels, 0.5, allocation=first)
    assert [m.tolist() for m in masks] == [[[False, False]], [[True, True]]]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"sparsity": 1.0}, ValueError, "`sparsity`"),
        ({"sparsity": -0.1}, ValueError, "`sparsity`"),
        ({"sparsity": float("nan")}, ValueError, "`sparsity`"),
        ({"sparsity": "0.9"}, TypeError, "`sparsity`"),
        ({"sparsity": True}, TypeError, "`sparsity`"),
        ({"sparsity": 0.95}, ValueError, r"sparsity.*\b4 weights"),
        ({"allocation": "globl"}, ValueError, "'global'"),
        ({"criterion": "size"}, ValueError, "'magnitude'"),
        ({"granularity": "blok"}, ValueError, "'weight'"),
        ({"granularity": (2, 4)}, ValueError, "NM"),
        ({"on_collapse": "no"}, ValueError, "'protect'"),
        ({"masks": [np.ones((4, 1), bool)]}, ValueError, "`masks`"),
        ({"layouts": []}, ValueError, "`layouts`"),
        ({"criterion": lambda k: k[0]}, ValueError, "`criterion`"),
        ({"criterion": lambda k: k * 1j}, ValueError, "`criterion`"),
        ({"criterion": lambda k: k / 0.0}, ValueError, "scores.*kernel 0"),
        ({"criterion": "saliency"}, ValueError, "`gradients`"),
        (
            {"criterion": "saliency", "gradients": [np.ones(4)]},
            ValueError,
            "`gradients`",
        ),
        (
            {"criterion": "random", "allocation": "lamp"},
            ValueError,
            "`allocation`.*='lamp'.*'uniform'",
        ),
        (
            {"criterion": np.negative, "allocation": "relative"},
            ValueError,
            "`criterion`.*>= 0",
        ),
        ({"allocation": lambda s, f: [5]}, ValueError, "`allocation`"),
        ({"allocation": lambda s, f: [-1]}, ValueError, "`allocation`"),
        ({"allocation": lambda s, f: [1.5]}, ValueError, "`allocation`"),
        ({"allocation": lambda s, f: []}, ValueError, "`allocation`"),
        ({"allocation": lambda s, f: 3}, ValueError, "`allocation`"),
        ({"allocation": lambda s, f: None}, ValueError, "`allocation`"),
        ({"allocation": lambda s, f: ["a"]}, ValueError, "`allocation`"),
        (
            {"allocation": selection.Shares(lambda c, s: [9])},
            ValueError,
            "`allocation`",
        ),
        (
            {"kernels": [[np.nan, 1.0]], "criterion": "random"},
            ValueError,
            "weights.*kernel 0",
        ),
        (
            {"kernels": [[np.inf, 1.0]], "criterion": np.sign},
            ValueError,
            "weights.*kernel 0",
        ),
        ({"gradients": [np.ones((2, 2))]}, ValueError, "`gradients`"),
        ({"layouts": [None]}, ValueError, "`layouts`"),
        ({"granularity": np.array([2, 4])}, ValueError, "NM"),
        (
            {"allocation": Ranking(lambda s: s[0])},
            ValueError,
            "`rescale`",
        ),
        ({"kernels": [np.array([[1.0, np.nan]])]}, ValueError, r"\(0, 1\)"),
        ({"kernels": [np.array([[np.inf, 1.0]])]}, ValueError, r"\(0, 0\)"),
        ({"kernels": [np.array([["a"]])]}, ValueError, "`kernels`.*<U1"),
        (
            {"kernels": [np.ones((2, 8))], "on_collapse": "protect"},
            ValueError,
            "`on_collapse=.* 5 .*16 .* 8 ",
        ),
        ({"max_layer_sparsity": 0.5}, ValueError, "`max_layer_sparsity`"),
        ({"max_layer_sparsity": 1.0}, ValueError, "`max_layer_sparsity`"),
        (
            {"max_layer_sparsity": [0.9, 0.9]},
            ValueError,
            "`max_layer_sparsity`.* 2 .* 1 ",
        ),
        ({"layer_sparsity": 0.5}, TypeError, "`layer_sparsity`"),
        ({"layer_sparsity": [0.0]}, ValueError, "`layer_sparsity`"),
        (
            {"layer_sparsity": [0.9], "max_layer_sparsity": 0.8},
            ValueError,
            r"`layer_sparsity`.*`max_layer_sparsity`.*0\.9.*0\.8",
        ),
    ],
)
def test_bad_arguments(arguments, error, text):
    arguments = {"kernels": [np.ones((2, 2))], "sparsity": 0.7, **arguments}
    with (
        np.errstate(divide="ignore", invalid="ignore"),
        pytest.raises(error, match=text),
    ):
        select(**arguments)


def test_a_nan_is_found_in_a_large_kernel():
    kernel = np.ones((300, 300), np.float32)
    kernel[299, 7] = np.nan
    with pytest.raises(ValueError, match=r"nan.*kernel 1.*\(299"):
        select([np.ones((4, 4)), kernel], 0.5)


def test_kernels_are_protected_by_default():
    kernels = [np.full((4, 2), 0.1), np.arange(1.0, 13).reshape(4, 3)]
    masks = keras_bimp.select(kernels, 0.5)
    assert [mask.sum() for mask in masks] == [2, 8]
    masks = keras_bimp.select(kernels, 0.5, on_collapse="ignore")
    assert [mask.sum() for mask in masks] == [0, 10]
