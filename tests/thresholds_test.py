"""The search for the smallest weights, against NumPy's sort."""

import functools

import hypothesis
import keras
import ml_dtypes
import numpy as np
import pytest
from helpers import float64_on_jax
from hypothesis import strategies
from keras import ops

from keras_bimp._src.baselines import thresholds

SIZE = 12
# Many ties and zeros; the last ones are out of the range of float16.
ENTRIES = [0.0, 0.25, 0.2501, 0.5, 1.0, 3.0, 60000.0, 1e-3, 1e-4, 1e-30, 1e30]


@strategies.composite
def problems(draw):
    dtype = draw(
        strategies.sampled_from(["float16", "float32", "float64", "bfloat16"])
    )
    entries = ENTRIES[:-2] if dtype == "float16" else ENTRIES
    values = draw(
        strategies.lists(
            strategies.sampled_from(entries), min_size=SIZE, max_size=SIZE
        )
    )
    return dtype, values, draw(strategies.integers(0, SIZE))


def as_tensors(values, dtype):
    """Returns two tensors, and their entries as an array."""
    rounded = np.array(values).astype(getattr(ml_dtypes, dtype, dtype))
    parts = [rounded[:6].reshape(2, 3), rounded[6:]]
    return [ops.convert_to_tensor(part) for part in parts], rounded


@functools.cache
def search():
    """Returns the tested function, compiled where a train step is."""

    def both(parts, k):
        found = thresholds.kth_smallest(parts, k)
        return found, thresholds.smallest(parts, k)

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(both, jit_compile=True)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(both)
    return both


def chosen(parts):
    flat = [ops.convert_to_numpy(part).ravel() for part in parts]
    return np.flatnonzero(np.concatenate(flat))


@hypothesis.settings(max_examples=200, deadline=None, database=None)
@hypothesis.given(problems())
def check(problem):
    dtype, values, k = problem
    parts, entries = as_tensors(values, dtype)
    found, smallest = search()(parts, ops.convert_to_tensor(k, "int32"))
    assert found.dtype == parts[0].dtype
    wanted = np.sort(entries)[k - 1] if k else -1
    assert float(ops.cast(found, "float32")) == np.float32(wanted)
    assert [part.shape for part in smallest] == [part.shape for part in parts]
    # For ties, the first ones.
    first = np.argsort(entries, kind="stable")[:k]
    np.testing.assert_array_equal(chosen(smallest), np.sort(first))


@pytest.mark.every_backend
def test_it_is_what_a_sort_finds():
    with float64_on_jax():
        check()


@pytest.mark.every_backend
def test_subnormal_numbers_are_zeros_where_the_backend_says_so():
    # TensorFlow and JAX compute with zeros in their place: they tie.
    parts, _ = as_tensors([1.0, 3e-42, 2e-42, 1e-42, 0.0, 2.0, 3.0], "float32")
    _, smallest = search()(parts, ops.convert_to_tensor(4, "int32"))
    np.testing.assert_array_equal(chosen(smallest), [1, 2, 3, 4])
    _, smallest = search()(parts, ops.convert_to_tensor(2, "int32"))
    sorts = keras.backend.backend() == "torch"
    np.testing.assert_array_equal(chosen(smallest), [3, 4] if sorts else [1, 2])
