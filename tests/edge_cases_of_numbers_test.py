"""Zeros of both signs, subnormal numbers and half precision."""

import keras
import numpy as np
import pytest
from edge_cases import all_masks
from edge_cases import assert_zeros
from edge_cases import magnitudes
from edge_cases import ours
from edge_cases import set_kernels
from edge_cases import without_the_smallest
from helpers import TOTAL
from helpers import dense_model
from helpers import fit
from helpers import kernels_and_masks
from helpers import masked
from helpers import wrapped
from helpers import zeros

import keras_bimp

POLICIES = ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16"]


# Zeros of both signs, and the smallest numbers.


def tiny_weights(dtype="float32"):
    """6 zeros with a sign, 5 without, 7 subnormal and 54 other numbers."""
    smallest = np.finfo(dtype).smallest_subnormal
    rng = np.random.default_rng(0)
    values = np.concatenate(
        [
            np.full(6, -0.0),
            np.zeros(5),
            smallest * np.array([1, -2, 3, -4, 5, -6, 7], "float64"),
            rng.uniform(0.1, 1, 54) * rng.choice([-1, 1], 54),
        ]
    )
    return rng.permutation(values).astype(dtype)


def test_the_tiny_weights_are_what_they_say():
    values = tiny_weights()
    assert (values == 0).sum() == 11
    assert np.signbit(values[values == 0]).sum() == 6
    tiny = np.abs(values) < np.finfo("float32").smallest_normal
    assert tiny.sum() == 18


@pytest.mark.parametrize("count", [0, 4, 11, 15, 18, 30])
def test_zeros_and_subnormals_go_first_and_what_stays_keeps_its_bits(count):
    model = wrapped()
    values = tiny_weights()
    set_kernels(model, values)
    keras_bimp.prune(model, count / TOTAL, on_collapse="ignore")
    expected = without_the_smallest(np.abs(values), count)
    np.testing.assert_array_equal(all_masks(model), expected)
    left = np.concatenate([k.ravel() for k, _ in kernels_and_masks(model)])
    np.testing.assert_array_equal(
        left.view("uint32"), np.where(expected, values, 0).view("uint32")
    )


@pytest.mark.parametrize("count", [4, 15])
def test_subnormals_are_no_zeros_to_the_metrics_but_both_zeros_are(count):
    model = wrapped()
    set_kernels(model, tiny_weights())
    keras_bimp.prune(model, count / TOTAL, on_collapse="ignore")
    expected = max(count, 11) / TOTAL
    assert keras_bimp.sparsity(model).prunable == expected
    stripped = keras_bimp.strip(model)
    assert keras_bimp.sparsity(stripped).prunable == expected


def test_subnormals_are_no_zeros_to_masks_but_both_zeros_are():
    values = tiny_weights()
    model = dense_model()
    first, second = (model.layers[i].kernel for i in (0, -1))
    first.assign(values[:48].reshape(6, 8))
    second.assign(values[48:].reshape(8, 3))
    model = keras_bimp.wrap(model, initial_masks="nonzero")
    np.testing.assert_array_equal(all_masks(model), values != 0)


# Half precision.


@pytest.fixture
def half_precision(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("half_precision", POLICIES, indirect=True)
@pytest.mark.parametrize("sparsity", [0.3, 0.55])
def test_prune_is_exact_in_half_precision(half_precision, sparsity):
    model = wrapped()
    dtype = "float32" if "mixed" in half_precision else half_precision
    assert {kernel.variable.dtype for kernel in masked(model).kernels} == {
        dtype
    }
    expected = without_the_smallest(magnitudes(model), round(sparsity * TOTAL))
    keras_bimp.prune(model, sparsity)
    np.testing.assert_array_equal(all_masks(model), expected)
    assert_zeros(model, round(sparsity * TOTAL))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_ties_and_subnormals_in_half_precision(dtype):
    keras.config.set_dtype_policy(dtype)
    try:
        model = wrapped()
    finally:
        keras.config.set_dtype_policy("float32")
    # Multiples of the smallest number of float16, which bfloat16 has too.
    values = np.repeat(np.arange(-12, 12), 3) * 2.0**-24
    values[np.flatnonzero(values == 0)[1]] = -0.0
    set_kernels(model, values)
    keras_bimp.prune(model, 14 / TOTAL, on_collapse="ignore")
    expected = without_the_smallest(np.abs(values), 14)
    np.testing.assert_array_equal(all_masks(model), expected)
    assert zeros(model) == 14


@pytest.mark.slow
@pytest.mark.parametrize("half_precision", POLICIES, indirect=True)
def test_callbacks_are_exact_in_half_precision(half_precision):
    model = wrapped(keras.optimizers.SGD(0.05, momentum=0.9))
    history = fit(model, 4, ours(0.8, 1, cycles=2)).history
    # A density of 0.2, and its root half way.
    np.testing.assert_allclose(
        np.array(history["sparsity"]) * TOTAL, [0, 40, 58, 58]
    )
    assert_zeros(model, 58)
