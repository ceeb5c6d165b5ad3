"""Unknown multiply-adds, precisions, and zeros."""

import functools
import math

import keras
import numpy as np
import pytest
from helpers import array
from helpers import masked
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import layers
from keras import ops
from layer_types import Custom
from macs_models import MIXED
from macs_models import SEQUENCE
from macs_models import made_quickly
from macs_models import mixed_model
from macs_models import model_of
from macs_models import models

import keras_bimp
from keras_bimp._src.masking import find_prunable
from keras_bimp.metrics import Work
from keras_bimp.metrics import count_macs
from keras_bimp.metrics import theoretical_speedup


class Unit(layers.Layer):
    """A custom recurrent cell."""

    state_size = 4

    def build(self, shape):
        self.kernel = self.add_weight(shape=(4, 4), name="kernel")

    def call(self, x, states):
        x = ops.matmul(x, self.kernel)
        return x, [x]


class Twice(keras.Operation):
    def call(self, x):
        return ops.matmul(ops.matmul(x, ops.ones((4, 4))), ops.ones((4, 3)))

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:-1], 3), x.dtype)


UNKNOWN = {
    "custom layer": (
        lambda: Custom(),
        "not counted with a_kernel, kernel, bias",
    ),
    "lambda": (
        lambda: layers.Lambda(lambda x: x @ ops.ones((4, 3))),
        "it may compute anything",
    ),
    "custom cell": (lambda: layers.RNN(Unit()), "it has a custom cell"),
    "custom operation": (Twice, "a custom operation"),
    "ops.map": (
        lambda: lambda x: ops.map(lambda y: y @ ops.ones((4, 3)), x),
        "`keras.ops` Map is not counted",
    ),
    "ops.einsum of three": (
        lambda: lambda x: ops.einsum("btc,btd,bud->buc", x, x, x),
        "`keras.ops` Einsum is not counted",
    ),
    "ops.conv": (
        lambda: lambda x: ops.conv(x, np.ones((2, 4, 3), "float32")),
        "`keras.ops` Conv is not counted",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_unknown_is_listed(name):
    make, reason = UNKNOWN[name]
    function = make()
    model = model_of(lambda x: function(layers.Dense(4)(x)), SEQUENCE)
    macs = count_macs(model)
    assert macs.dense == 4 * 4 * 5
    ((path, why),) = macs.unknown
    assert reason in why
    # Not the path of the dense layer or of anything inside.
    assert path == model.operations[-1].name


def test_a_rule_makes_a_layer_known():
    custom = Custom()
    model = model_of(custom, SEQUENCE)

    def rule(call):
        positions = math.prod(call.inputs["x"][:-1])
        assert call.operation is custom
        assert call.outputs == (1, 5, 4)
        return Work(((custom.a, positions), (custom.b, positions)), own=7)

    macs = count_macs(model, rules={Custom: rule})
    assert (macs.dense, macs.unknown) == (2 * (4 * 4 * 5) + 7, ())
    custom.b.assign(np.eye(4))
    macs = count_macs(model, rules={Custom: rule})
    assert macs.nonzero == 4 * 4 * 5 + 4 * 5 + 7
    (found,) = macs.layers.values()
    assert list(found.kernels.values()) == [(80, 80), (80, 20)]


def test_a_rule_comes_before_ours():
    model = model_of(lambda x: layers.Dense(3)(layers.ReLU()(x)), (4,))
    macs = count_macs(model, rules={layers.Dense: lambda call: Work(own=7)})
    assert macs.dense == macs.nonzero == 7
    macs = count_macs(model, rules={layers.ReLU: lambda call: Work(own=7)})
    assert macs.dense == 4 * 3 + 7


# Precision and quantization.


def dense_and_convolution():
    return model_of(lambda x: layers.Dense(3)(layers.Conv1D(6, 2)(x)), SEQUENCE)


CONVOLUTION_AND_DENSE = 2 * 4 * 6 * 4 + 6 * 3 * 4


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_precisions(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = dense_and_convolution()
    finally:
        keras.config.set_dtype_policy(before)
    assert count_macs(model).dense == CONVOLUTION_AND_DENSE


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` met")
def test_quantized_to_int8():
    model = model_of(
        lambda x: layers.EinsumDense("abc,cd->abd", (None, 2))(
            layers.Dense(3)(layers.ReLU()(x))
        ),
        SEQUENCE,
    )
    kernel = np.arange(1.0, 13).reshape(4, 3)
    kernel[:2] = 0
    model.layers[2].kernel.assign(kernel)
    model.quantize("int8")
    macs = count_macs(model)
    assert macs.dense == 4 * 3 * 5 + 3 * 2 * 5
    assert macs.layers[model.layers[2].path].nonzero == 2 * 3 * 5
    assert macs.unknown == ()


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` met")
def test_quantized_to_int4():
    model = model_of(layers.Dense(3), (4,))
    model.layers[1].kernel.assign([[0, 0, 0], [0, 1, 0], [0, 0, 2], [3, 4, 0]])
    model.quantize("int4")
    macs = count_macs(model)
    assert (macs.dense, macs.nonzero, macs.unknown) == (4 * 3, 4, ())


def test_lora_leaves_no_zeros():
    model = model_of(layers.Dense(3), (4,))
    layer = model.layers[1]
    layer.kernel.assign(np.zeros((4, 3)))
    layer.enable_lora(2)
    assert count_macs(model).nonzero == 0  # LoRA initially adds 0.
    layer.lora_kernel_b.assign(np.ones((2, 3)))
    assert count_macs(model).nonzero == count_macs(model).dense == 4 * 3


# Zeros.


@functools.cache
def models_with_kernels():
    return {
        name: model
        for name, model in models().items()
        if find_prunable(model).kernels
    }


@settings(deadline=None, max_examples=25)
@given(given=st.data())
def test_zeros_change_the_share_of_their_kernel_alone(given):
    name = given.draw(st.sampled_from(sorted(models_with_kernels())))
    model = models_with_kernels()[name]
    kernels = find_prunable(model).kernels
    kernel = kernels[given.draw(st.integers(0, len(kernels) - 1))]
    zeros = given.draw(st.sampled_from([kernel.size // 2, kernel.size]))
    seed = given.draw(st.integers(0, 2**32 - 1))
    before = count_macs(model)
    value = array(kernel.variable)
    left = value.copy().ravel()
    chosen = np.random.default_rng(seed).permutation(kernel.size)[:zeros]
    left[chosen] = 0
    kernel.variable.assign(left.reshape(value.shape))
    try:
        after = count_macs(model)
    finally:
        kernel.variable.assign(value)
    assert after.dense == before.dense == before.nonzero
    changed = []
    for path, layer in after.layers.items():
        for name, (dense, nonzero) in layer.kernels.items():
            if nonzero != dense:
                changed.append((name, dense, nonzero))
                assert before.layers[path].nonzero - layer.nonzero == (
                    dense - nonzero
                )
    ((name, dense, nonzero),) = changed
    assert name.removesuffix(" (2)") == kernel.path
    # All entries are used equally often.
    assert nonzero * kernel.size == dense * (kernel.size - zeros)
    assert after.nonzero == before.nonzero - dense + nonzero


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_a_mixed_model_dense_wrapped_and_stripped():
    model = made_quickly(mixed_model)
    macs = count_macs(model)
    assert (macs.dense, macs.nonzero, macs.unknown) == (MIXED, MIXED, ())
    wrapped = keras_bimp.wrap(model)
    assert count_macs(wrapped) == macs
    keras_bimp.prune(wrapped, 0.9)
    macs = count_macs(wrapped)
    assert macs.dense == MIXED
    assert macs.nonzero < MIXED / 2
    stripped = keras_bimp.strip(wrapped)
    assert stripped is model
    assert count_macs(stripped) == macs
    assert theoretical_speedup(model) == macs.dense / macs.nonzero


def test_masks_count_and_not_the_raw_weights():
    model = keras.Sequential(
        [
            keras.Input(SEQUENCE),
            layers.Dense(6),
            keras_bimp.Masked(layers.Dense(3)),
        ]
    )
    masked(model).masks[0].assign(np.arange(18).reshape(6, 3) % 3 == 0)
    macs = count_macs(model)
    assert (macs.dense, macs.unknown) == (4 * 6 * 5 + 6 * 3 * 5, ())
    assert macs.nonzero == 4 * 6 * 5 + 6 * 1 * 5
