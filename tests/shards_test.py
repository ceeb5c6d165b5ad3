"""Selection among sharded kernels, with threads as processes."""

import concurrent.futures
import threading

import numpy as np
import pytest
from helpers import lines_with
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import keras_bimp
from keras_bimp._src import processes
from keras_bimp._src import selection
from keras_bimp._src.selection import shards


class Threads:
    """Simulates several processes that exchange arrays."""

    def __init__(self, count):
        self.count = count
        self.barrier = threading.Barrier(count, timeout=60)
        self.told = [None] * count
        self.mine = threading.local()

    def gathered(self, numbers):
        self.told[self.mine.index] = numbers
        self.barrier.wait()
        table = np.stack(self.told)
        self.barrier.wait()
        return table

    def run(self, function):
        """Returns the result of each process."""

        def as_process(index):
            self.mine.index = index
            try:
                return function(index)
            except BaseException:
                self.barrier.abort()
                raise

        with (
            pytest.MonkeyPatch.context() as patch,
            concurrent.futures.ThreadPoolExecutor(self.count) as pool,
        ):
            patch.setattr(processes, "process_count", lambda: self.count)
            patch.setattr(processes, "process_index", lambda: self.mine.index)
            patch.setattr(processes, "gathered", self.gathered)
            return list(pool.map(as_process, range(self.count)))


def spread(array, axis, index, count, replicas=1):
    """Returns the shard of process `index` of an array split along an axis.

    With two `replicas`, a process with an odd index has the same shard as the
    one before it.
    """
    ends = (
        np.linspace(0, array.shape[axis], count // replicas + 1)
        .astype(int)
        .tolist()
    )
    begin, end = ends[index // replicas], ends[index // replicas + 1]
    where = tuple(
        (begin, end) if i == axis else (0, n) for i, n in enumerate(array.shape)
    )
    part = array[tuple(slice(b, e) for b, e in where)]
    owned = {where} if index % replicas == 0 else set()
    return shards.Shards(array.shape, None, {where: part}, owned)


def assert_part_of(found, expected):
    if not isinstance(found, shards.Shards):
        np.testing.assert_array_equal(found, expected)
        return
    for where, part in found.parts.items():
        np.testing.assert_array_equal(
            part, expected[tuple(slice(b, e) for b, e in where)]
        )


@st.composite
def problems(draw):
    dtype = draw(st.sampled_from(["float16", "float32", "float64"]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    kernels = []
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(st.sampled_from([(4, 8), (8, 3), (2, 4, 5), (3, 3, 4, 4)]))
        kernel = rng.standard_normal(shape) * draw(st.sampled_from([0.01, 1]))
        if draw(st.booleans()):
            kernel = kernel.round(1)  # Many ties, and -0.0.
        kernels.append(kernel.astype(dtype))
    masks = [rng.random(k.shape) < draw(st.floats(0.3, 1)) for k in kernels]
    for mask in masks:
        mask.flat[-1] = True
    return kernels, masks, [draw(st.integers(-1, k.ndim - 1)) for k in kernels]


@settings(max_examples=25, deadline=None)
@given(
    problems(),
    st.floats(0, 0.95),
    st.sampled_from(["global", "uniform", "erk"]),
    st.sampled_from(["ignore", "protect"]),
    st.sampled_from([1, 2]),
)
def test_it_is_what_one_process_chooses(
    problem, sparsity, allocation, on_collapse, replicas
):
    kernels, masks, axes = problem
    policy = selection.as_policy(allocation, on_collapse=on_collapse)

    def choose(kernels, masks):
        try:
            chosen = selection.choose(kernels, sparsity, policy, masks=masks)
        except ValueError as error:
            return str(error)
        return (
            chosen,
            selection.counts(chosen.masks),
            selection.norms(kernels, masks, chosen.masks),
        )

    def part(array, axis, index):
        # Not all kernels are sharded.
        return array if axis < 0 else spread(array, axis, index, 4, replicas)

    expected = choose(kernels, masks)
    found = Threads(4).run(
        lambda index: choose(
            [part(k, a, index) for k, a in zip(kernels, axes, strict=True)],
            [part(m, a, index) for m, a in zip(masks, axes, strict=True)],
        )
    )
    if isinstance(expected, str):
        assert found == [expected] * 4
        return
    chosen, counts, norms = expected
    for mine, my_counts, my_norms in found:
        assert mine.collapsed == chosen.collapsed
        assert my_counts == counts
        np.testing.assert_allclose(my_norms, norms, rtol=1e-12)
        for mask, whole in zip(mine.masks, chosen.masks, strict=True):
            assert_part_of(mask, whole)


def test_a_weight_that_is_not_finite_stops_all():
    kernel = np.ones((4, 6), "float32")
    kernel[1, 5] = np.nan
    policy = selection.as_policy()

    def choose(index):
        with pytest.raises(ValueError, match="dense/kernel") as error:
            selection.choose(
                [spread(kernel, 1, index, 2)],
                0.5,
                policy,
                masks=[spread(np.ones(kernel.shape, bool), 1, index, 2)],
                names=["dense/kernel"],
            )
        return str(error.value)

    first, second = Threads(2).run(choose)
    assert "process" in first
    assert lines_with(second, "nan", "(1, 5)")


def test_processes_that_disagree_are_all_told():
    def check(index):
        masks = [np.ones(3, bool), np.arange(3) == index]
        with pytest.raises(RuntimeError, match=r"'second'.*0, 1"):
            processes.check_agreement(
                *selection.digests(masks, ["first", "second"])
            )

    Threads(2).run(check)


def test_processes_agree_that_hold_different_parts():
    class Sharding:
        def devices_indices_map(self, shape):
            return {i: (slice(None), slice(3 * i, 3 * i + 3)) for i in range(2)}

    mask = np.arange(24).reshape(4, 6) % 5 > 1

    def check(index):
        part = spread(mask, 1, index, 2)
        part.sharding = Sharding()
        found, names = selection.digests([part], ["kernel"])
        assert names == ["kernel"] * 2
        assert [digest is None for digest in found] == [index == 1, index == 0]
        processes.check_agreement(found, names)

    Threads(2).run(check)


def test_select_knows_no_other_processes():
    kernels = [np.arange(6.0).reshape(2, 3)]
    (mask,) = Threads(2).run(lambda _: keras_bimp.select(kernels, 0.5))[1]
    assert mask.tolist() == [[False] * 3, [True] * 3]
