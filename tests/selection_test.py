import json

import ml_dtypes
import numpy as np
import pytest
from helpers import GOLDEN
from helpers import golden_kernels
from hypothesis import assume
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from selection_cases import EVERY
from selection_cases import assert_equal
from selection_cases import oracle
from selection_cases import select


def as_golden(mask):
    """Flattens in the reference's layout."""
    order = [3, 2, 0, 1] if mask.ndim == 4 else [1, 0]
    return np.transpose(mask, order).ravel()


NAMES = {
    "glob": "global",
    "unif": "uniform",
    "unifplus": "uniform_plus",
    "erk": "erk",
    "lamp": "lamp",
}


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.95, 0.98, 0.99])
@pytest.mark.parametrize("name", NAMES)
def test_masks_are_those_of_the_reference(name, sparsity):
    _, kernels = golden_kernels()
    stored = np.load(GOLDEN / "masks.npz")[f"resnetish/{name}/{sparsity}"]
    golden = np.unpackbits(stored)[: sum(k.size for k in kernels)]
    masks = select(kernels, sparsity, allocation=NAMES[name])
    np.testing.assert_array_equal(
        np.concatenate([as_golden(mask) for mask in masks]), golden
    )


@pytest.mark.parametrize("name", NAMES)
def test_three_steps_keep_as_many_as_the_reference(name):
    info, kernels = golden_kernels()
    golden = info["methods"][f"{name}/iter3_0.98"]
    total = sum(k.size for k in kernels)
    masks, left = None, total
    for expected in golden["kept"]:
        # Each step prunes a fraction of what is left.
        left *= 1 - golden["per_step_fraction"]
        masks = select(
            kernels, 1 - left / total, allocation=NAMES[name], masks=masks
        )
        kept = [int(mask.sum()) for mask in masks]
        assert kept == expected
        left = sum(kept)


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.95, 0.98, 0.99])
def test_erk_is_rigls_but_for_its_flooring(sparsity):
    golden = json.loads((GOLDEN / "erk.json").read_text())
    golden = golden[f"resnetish/erdos_renyi_kernel/{sparsity}"]
    kernels = [np.ones(shape) for shape in golden["shapes_hwio"]]
    for mask, expected, zeros in zip(
        select(kernels, sparsity, allocation="erk"),
        golden["sparsity"],
        golden["n_zeros"],
        strict=True,
    ):
        ours = mask.size - np.count_nonzero(mask)
        assert abs(ours / mask.size - expected) <= 2e-3
        assert zeros <= ours <= zeros + 2


SMALL = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 3.0])
ANY = st.floats(-100, 100, width=16)


def some_kernels(elements=SMALL):
    # Few distinct values: many ties, and zeros of both signs.
    shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)
    arrays = st.sampled_from(["float32", "float64", "float16"]).flatmap(
        lambda dtype: hnp.arrays(dtype, shapes, elements=elements)
    )
    return st.lists(arrays, min_size=1, max_size=4)


@given(
    kernels=some_kernels() | some_kernels(ANY),
    sparsity=st.floats(0, 0.99),
    seed=st.integers(0, 9),
)
def test_global_selection_equals_a_stable_sort(kernels, sparsity, seed):
    rng = np.random.default_rng(seed)
    masks = [rng.random(k.shape) < 0.7 for k in kernels]
    total = sum(k.size for k in kernels)
    before = sum(int((~m).sum()) for m in masks)
    pruned = max(round(sparsity * total), before)
    assume(pruned < total)
    assert_equal(
        select(kernels, sparsity, masks=masks), oracle(kernels, pruned, masks)
    )


def selected(kernels, sparsity, allocation):
    """Returns the masks, or `None` if nothing would be left."""
    try:
        return select(kernels, sparsity, allocation=allocation)
    except ValueError:
        return None


@given(
    kernels=some_kernels(),
    sparsity=st.floats(0, 0.9),
    allocation=st.sampled_from(["uniform", "erk", "lamp", "relative"]),
)
def test_each_kernel_keeps_its_highest(kernels, sparsity, allocation):
    masks = selected(kernels, sparsity, allocation)
    assume(masks)
    kept = [int(m.sum()) for m in masks]
    for kernel, mask, left in zip(kernels, masks, kept, strict=True):
        everything = [np.ones(kernel.shape, bool)]
        assert_equal([mask], oracle([kernel], kernel.size - left, everything))
    sizes = [k.size for k in kernels]
    if allocation == "uniform":
        assert kept == [size - round(sparsity * size) for size in sizes]
    elif allocation == "erk":
        # Each kernel's number is rounded.
        wanted = (1 - sparsity) * sum(sizes)
        assert abs(sum(kept) - wanted) <= len(sizes) / 2 + 1e-9
    else:
        assert sum(kept) == sum(sizes) - round(sparsity * sum(sizes))


@given(
    kernels=some_kernels(),
    low=st.floats(0, 0.9),
    high=st.floats(0, 0.9),
    allocation=st.sampled_from(EVERY),
)
def test_a_higher_sparsity_keeps_a_subset(kernels, low, high, allocation):
    low, high = sorted((low, high))
    more = selected(kernels, low, allocation)
    fewer = selected(kernels, high, allocation)
    assume(more and fewer)
    for before, after in zip(more, fewer, strict=True):
        assert not (after & ~before).any()


@given(
    kernels=some_kernels(),
    sparsity=st.floats(0, 0.9),
    allocation=st.sampled_from(["global", "uniform", "uniform_plus", "lamp"]),
)
def test_the_same_pruning_again_changes_nothing(kernels, sparsity, allocation):
    masks = selected(kernels, sparsity, allocation)
    assume(masks)
    again = select(kernels, sparsity, allocation=allocation, masks=masks)
    assert_equal(again, masks)


@given(
    seed=st.integers(0, 99),
    sparsity=st.floats(0, 0.9),
    allocation=st.sampled_from(EVERY),
    order=st.permutations(range(4)),
)
def test_the_order_of_kernels_does_not_matter(
    seed, sparsity, allocation, order
):
    rng = np.random.default_rng(seed)
    shapes = [(3, 3, 2, 4), (8, 5), (2, 9), (4, 4, 3)]
    kernels = [
        rng.standard_normal(shape) * scale
        for shape, scale in zip(shapes, (1, 0.1, 3, 0.5), strict=True)
    ]
    masks = select(kernels, sparsity, allocation=allocation)
    permuted = select(
        [kernels[i] for i in order], sparsity, allocation=allocation
    )
    assert_equal(permuted, [masks[i] for i in order])


# More entries than are sorted together, from different distributions.
LARGE = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "few values": lambda rng, n: rng.integers(-3, 4, n) / 4,
    "half zeros": lambda rng, n: np.maximum(rng.standard_normal(n), 0),
    "constant": lambda rng, n: np.full(n, 0.5),
    "two scales": lambda rng, n: rng.standard_normal(n) * rng.choice([1e-9, 1]),
    "heavy tail": lambda rng, n: rng.standard_cauchy(n),
    "sorted": lambda rng, n: np.sort(rng.standard_normal(n)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", LARGE)
def test_large_kernels_equal_a_stable_sort(name, dtype):
    rng = np.random.default_rng(0)
    shapes = [(300, 220), (70, 90), (3, 3, 50, 60)]
    kernels = [
        np.clip(LARGE[name](rng, int(np.prod(shape))), -60000, 60000)
        .reshape(shape)
        .astype(dtype)
        for shape in shapes
    ]
    masks = [rng.random(shape) < 0.8 for shape in shapes]
    full = [np.ones(shape, bool) for shape in shapes]
    total = sum(k.size for k in kernels)
    for pruned in (1, total // 2, total * 9 // 10, total - 1):
        assert_equal(
            select(kernels, pruned / total), oracle(kernels, pruned, full)
        )
        if pruned > sum((~mask).sum() for mask in masks):
            assert_equal(
                select(kernels, pruned / total, masks=masks),
                oracle(kernels, pruned, masks),
            )


def test_a_misleading_sample_does_no_harm(monkeypatch):
    from keras_bimp._src.selection import scores

    kernels = [np.random.default_rng(1).standard_normal((400, 300))]
    full = [np.ones((400, 300), bool)]
    for low, high in ((-np.inf, 0.001), (2.0, np.inf), (0.1, 0.1)):
        ends = np.float64(low), np.float64(high)
        monkeypatch.setattr(scores, "_bracket", lambda *_, e=ends: e)
        assert_equal(select(kernels, 0.5), oracle(kernels, 60000, full))


def test_bfloat16_is_ranked_in_float32():
    kernel = np.array([[1.0, -2.0], [0.5, -0.0]], ml_dtypes.bfloat16)
    assert select([kernel], 0.5)[0].tolist() == [[True, True], [False, False]]
