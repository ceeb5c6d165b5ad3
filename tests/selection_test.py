import json

import numpy as np
import pytest
from helpers import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_bimp import select
from keras_bimp.selection import Layout


def oracle(kernels, sparsity, masks):
    """Global magnitude selection by one stable sort."""
    scores = np.concatenate(
        [np.abs(k).astype("float64").ravel() for k in kernels]
    )
    alive = np.concatenate([m.ravel() for m in masks])
    scores[~alive] = -1
    pruned = max(round(sparsity * len(scores)), int((~alive).sum()))
    keep = np.ones(len(scores), bool)
    keep[np.argsort(scores, kind="stable")[:pruned]] = False
    sizes = np.cumsum([k.size for k in kernels])[:-1]
    parts = np.split(keep, sizes)
    return [p.reshape(k.shape) for p, k in zip(parts, kernels, strict=True)]


def some_kernels():
    # Few distinct values: many ties, and zeros of both signs.
    values = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 3.0])
    shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)
    arrays = st.sampled_from(["float32", "float64", "float16"]).flatmap(
        lambda dtype: hnp.arrays(dtype, shapes, elements=values)
    )
    return st.lists(arrays, min_size=1, max_size=4)


@given(
    kernels=some_kernels(), sparsity=st.floats(0, 0.99), seed=st.integers(0, 9)
)
def test_global_selection_equals_a_stable_sort(kernels, sparsity, seed):
    rng = np.random.default_rng(seed)
    masks = [rng.random(k.shape) < 0.7 for k in kernels]
    total = sum(k.size for k in kernels)
    if round(sparsity * total) == total or not any(m.any() for m in masks):
        return
    expected = oracle(kernels, sparsity, masks)
    for ours, theirs in zip(
        select(kernels, sparsity, masks=masks), expected, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@given(
    kernels=some_kernels(),
    low=st.floats(0, 0.9),
    high=st.floats(0, 0.9),
)
def test_a_higher_sparsity_keeps_a_subset(kernels, low, high):
    low, high = sorted((low, high))
    if round(high * sum(k.size for k in kernels)) == sum(
        k.size for k in kernels
    ):
        return
    for more, fewer in zip(
        select(kernels, low), select(kernels, high), strict=True
    ):
        assert not (fewer & ~more).any()


def test_equal_magnitudes_lose_the_lower_indices_first():
    kernels = [np.ones((2, 2)), -np.ones((1, 4))]
    first, second = select(kernels, 0.75)
    assert not first.any()
    assert second.tolist() == [[False, False, True, True]]


def test_global_masks_match_the_reference():
    info = json.loads((GOLDEN / "masks.json").read_text())
    rng = np.random.RandomState(info["resnetish"]["seed"])
    weights = []
    for i, shape in enumerate(info["resnetish"]["shapes"]):
        scale = np.sqrt(2 / np.prod(shape[1:])) * (1 + 0.25 * (i % 3))
        weights.append((rng.randn(*shape) * scale).astype("float32"))
    stored = np.load(GOLDEN / "masks.npz")
    keys = [k for k in stored.files if "glob" in k and "resnetish" in k]
    keys = [k for k in keys if not k.count("step")]
    assert len(keys) == 5, stored.files
    total = sum(w.size for w in weights)
    for key in keys:
        golden = np.unpackbits(stored[key])[:total].astype(bool)
        sparsity = float(key.split("/")[-1])
        ours = np.concatenate([m.ravel() for m in select(weights, sparsity)])
        np.testing.assert_array_equal(ours, golden)


def uneven():
    """A kernel that global magnitude pruning would empty, and a strong one."""
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


def test_protect_takes_the_units_it_is_told():
    layouts = [Layout((1,), (0,)), Layout((0,), (1,))]
    kernels = [uneven()[0][:2].T, uneven()[1]]
    protected = select(kernels, 0.9, on_collapse="protect", layouts=layouts)
    assert [int(m.sum()) for m in protected] == [5, 16]
    layouts = [Layout((0,), (1,)), Layout((0,), (1,))]
    protected = select(kernels, 0.9, on_collapse="protect", layouts=layouts)
    assert [int(m.sum()) for m in protected] == [2, 19]


def test_protect_repeats_until_no_kernel_is_below_its_floor():
    # Protecting the first kernel takes so many from the second that it falls
    # below its own floor.
    kernels = [
        np.full((1, 8), 0.1),
        np.linspace(1, 2, 12).reshape(2, 6),
        np.linspace(3, 4, 40).reshape(20, 2),
    ]
    masks = select(kernels, 1 - 16 / 60, on_collapse="protect")
    assert [int(m.sum()) for m in masks] == [8, 6, 2]


def test_raise_names_the_kernel():
    with pytest.raises(ValueError, match="0 in kernel 0"):
        select(uneven(), 0.9, on_collapse="raise")


def test_a_callable_criterion_and_allocation():
    kernels = [np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])]
    masks = select(
        kernels,
        0.5,
        criterion=lambda kernel: -kernel,
        allocation=lambda scores, sparsity: [1] * len(scores),
    )
    assert [m.tolist() for m in masks] == [[[True, False]], [[True, False]]]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"sparsity": 1.0}, ValueError, "`sparsity`"),
        ({"sparsity": -0.1}, ValueError, "`sparsity`"),
        ({"sparsity": float("nan")}, ValueError, "`sparsity`"),
        ({"sparsity": "0.9"}, TypeError, "`sparsity`"),
        ({"sparsity": True}, TypeError, "`sparsity`"),
        ({"sparsity": 0.95}, ValueError, "at least one of the 4 weights"),
        ({"allocation": "globl"}, ValueError, "'global'"),
        ({"criterion": "size"}, ValueError, "'magnitude'"),
        ({"granularity": "blok"}, ValueError, "'weight'"),
        ({"on_collapse": "no"}, ValueError, "'protect'"),
        ({"masks": [np.ones((4, 1), bool)]}, ValueError, "`masks`"),
        ({"criterion": lambda k: k[0]}, ValueError, "`criterion`"),
        ({"allocation": lambda s, f: [5]}, ValueError, "`allocation`"),
        ({"allocation": lambda s, f: [-1]}, ValueError, "`allocation`"),
        ({"allocation": lambda s, f: []}, ValueError, "`allocation`"),
        ({"kernels": [np.array([[1.0, np.nan]])]}, ValueError, r"\(0, 1\)"),
        ({"kernels": [np.array([[np.inf, 1.0]])]}, ValueError, r"\(0, 0\)"),
        (
            {"kernels": [np.ones((2, 8))], "on_collapse": "protect"},
            ValueError,
            "5 weights for 8 output units",
        ),
    ],
)
def test_bad_arguments(arguments, error, text):
    arguments = {"kernels": [np.ones((2, 2))], "sparsity": 0.7, **arguments}
    with pytest.raises(error, match=text):
        select(**arguments)
