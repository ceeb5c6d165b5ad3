"""Edge cases of one pruning: ties, collapse, sharing, one weight."""

import keras
import numpy as np
import pytest
from edge_cases import all_masks
from edge_cases import assert_zeros
from edge_cases import bits
from edge_cases import magnitudes
from edge_cases import mask_bits
from edge_cases import ours
from edge_cases import said
from edge_cases import set_kernels
from edge_cases import with_built_optimizer
from edge_cases import without_the_smallest
from helpers import array
from helpers import compile_model
from helpers import dense_model
from helpers import fit
from helpers import kernels_and_masks
from helpers import lines_with
from helpers import masked
from helpers import wrapped
from keras import layers
from keras import ops

import keras_bimp


def prune(model, target_sparsity, during_fit, **kwargs):
    """Prunes manually, or immediately by callbacks."""
    if during_fit:
        fit(model, 1, ours(target_sparsity, 0, **kwargs))
    else:
        keras_bimp.prune(model, target_sparsity, **kwargs)


# Nothing to prune.


@pytest.mark.parametrize("optimizer", ["lion", "adamw"])
def test_a_target_of_zero_changes_no_bit(optimizer):
    optimizer = keras.optimizers.get(optimizer)
    model = with_built_optimizer(wrapped(optimizer))
    kernel = masked(model).kernels[0].variable
    value = array(kernel)
    value[0, :3] = [-0.0, 0.0, 1e-42]
    kernel.assign(value)
    before = bits(model)
    pruning = keras_bimp.prune(model, 0.0)
    assert bits(model) == before
    assert list(pruning.counts.values()) == [48, 24]
    assert (pruning.norm_drop, pruning.pruned_fraction) == (0, 0)


# Ties.


@pytest.mark.parametrize("units", [8, 12_000])
@pytest.mark.parametrize("sparsity", [0.01, 0.5, 0.71, 0.95])
def test_of_equal_magnitudes_the_lower_index_goes(sparsity, units):
    model = keras_bimp.wrap(
        keras.Sequential(
            [keras.Input((6,)), layers.Dense(units), layers.Dense(3)]
        )
    )
    total = 9 * units
    signs = np.random.default_rng(0).choice([-0.25, 0.25], total)
    set_kernels(model, signs.astype("float32"))
    keras_bimp.prune(model, sparsity, on_collapse="ignore")
    count = round(sparsity * total)
    np.testing.assert_array_equal(all_masks(model), np.arange(total) >= count)
    assert_zeros(model, count)


# Less than is already pruned.


@pytest.mark.parametrize("target", [0.0, 0.49])
def test_prune_to_less_changes_no_bit_and_warns_once(target):
    model = with_built_optimizer()
    keras_bimp.prune(model, 0.5)
    before = bits(model)
    with pytest.warns(UserWarning, match=r"\b36 .*\b72 ") as warned:
        pruning = keras_bimp.prune(model, target)
    assert len(said(warned)) == 1
    assert bits(model) == before
    assert sum(pruning.counts.values()) == 36


def test_prune_to_the_same_again_changes_no_bit_and_says_nothing():
    model = with_built_optimizer()
    keras_bimp.prune(model, 0.5)
    before = bits(model)
    keras_bimp.prune(model, 0.5)
    assert bits(model) == before


class BitsAroundPruning(keras.callbacks.Callback):
    """Keeps the bits at each end of an epoch and the next begin.

    List it after the callbacks that prune.
    """

    def __init__(self):
        super().__init__()
        self.ends, self.begins = [], []

    def on_epoch_begin(self, epoch, logs=None):
        if epoch:
            self.begins.append(self.bits())

    def on_epoch_end(self, epoch, logs=None):
        self.ends.append(self.bits())

    def bits(self):
        kernels = [
            kernel.tobytes() for kernel, _ in kernels_and_masks(self.model)
        ]
        return kernels + mask_bits(self.model)


@pytest.mark.parametrize("cycles", [1, 3])
def test_callbacks_to_less_let_nothing_grow_back_and_warn_once(cycles):
    model = wrapped()
    keras_bimp.prune(model, 0.5)
    before = mask_bits(model)
    around = BitsAroundPruning()
    with pytest.warns(UserWarning, match=r"\b36 .*\b72 ") as warned:
        history = fit(model, 5, [*ours(0.25, cycles=cycles), around]).history
    assert len(said(warned)) == 1
    assert mask_bits(model) == before
    assert around.begins == around.ends[:-1]
    assert history["sparsity"] == [0.5] * 5
    assert_zeros(model, 36)


@pytest.mark.parametrize("cycles", [1, 3])
def test_callbacks_to_what_is_pruned_already_change_no_mask(cycles):
    model = wrapped()
    keras_bimp.prune(model, 0.5)
    before = mask_bits(model)
    if cycles == 1:
        fit(model, 3, ours(0.5))
    else:
        with pytest.warns(UserWarning, match=r"\b36 .*\b72 ") as warned:
            fit(model, 4, ours(0.5, cycles=cycles))
        assert len(said(warned)) == 1
    assert mask_bits(model) == before
    assert_zeros(model, 36)


# Collapse.


def collapsing():
    """The first kernel is so small that 60% leave it 5 of 8 units."""
    model = with_built_optimizer()
    kernel = masked(model).kernels[0].variable
    kernel.assign(array(kernel) * 1e-4)
    return model


def test_a_kernel_that_would_collapse_keeps_its_largest():
    model = collapsing()
    first, second = np.split(magnitudes(model), [48])
    paths = [kernel.path for kernel in masked(model).kernels]
    pruning = keras_bimp.prune(model, 0.6)
    expected = [
        without_the_smallest(first, 48 - 8),
        without_the_smallest(second, 43 - 40),
    ]
    np.testing.assert_array_equal(all_masks(model), np.concatenate(expected))
    assert pruning.protected == (paths[0],)
    assert pruning.counts == {paths[0]: 8, paths[1]: 21}
    assert_zeros(model, 43)


@pytest.mark.parametrize("during_fit", [False, True])
def test_a_collapse_that_raises_changes_nothing_and_names_the_kernel(
    during_fit,
):
    model = collapsing()
    before, rate = bits(model), model.optimizer._learning_rate
    path = masked(model).kernels[0].path
    with pytest.raises(
        ValueError, match=rf"`on_collapse=.* 29 .*72 .* 5 .*{path}"
    ):
        prune(model, 0.6, during_fit, on_collapse="raise")
    assert bits(model) == before
    assert model.optimizer._learning_rate is rate


def test_a_collapse_that_is_ignored_is_that_of_plain_magnitudes():
    model = collapsing()
    expected = without_the_smallest(magnitudes(model), 43)
    assert expected[:48].sum() == 5
    pruning = keras_bimp.prune(model, 0.6, on_collapse="ignore")
    np.testing.assert_array_equal(all_masks(model), expected)
    assert pruning.protected == ()
    assert_zeros(model, 43)


# Frozen layers.


@pytest.mark.parametrize("frozen_first", [False, True])
def test_a_frozen_layer_is_untouched_and_listed(frozen_first):
    plain = dense_model()
    if frozen_first:
        plain.layers[0].trainable = False
    model = keras_bimp.wrap(plain)
    plain.layers[0].trainable = False
    compile_model(model)
    frozen = plain.layers[0].kernel
    before = array(frozen).tobytes()
    (callback,) = ours(0.5)
    fit(model, 3, [callback])
    expected = (frozen.path, "frozen")
    assert lines_with(str(callback.plan), frozen.path, "frozen")
    assert lines_with(str(callback.plan), "1", "kernels", "24")
    assert callback.prunings[0].skipped == (expected,)
    assert keras_bimp.prune(model, 0.75).skipped == (expected,)
    assert array(frozen).tobytes() == before
    assert (array(plain.layers[-1].kernel) == 0).sum() == 18


# Shared layers.


class TiedToLayer(layers.Layer):
    def __init__(self, other):
        super().__init__()
        self.other = other

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.other.kernel))


class TiedToVariable(layers.Layer):
    def __init__(self, other):
        super().__init__()
        self.kernel = other.kernel

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.kernel))


def shared_layer():
    inputs = keras.Input((6,))
    shared = layers.Dense(6)
    return keras.Model(inputs, layers.Dense(3)(shared(shared(inputs))))


def tied(cls):
    inputs = keras.Input((6,))
    first = layers.Dense(6)
    hidden = first(inputs)
    return keras.Model(inputs, layers.Dense(3)(cls(first)(hidden)))


@pytest.mark.parametrize(
    "make",
    [shared_layer, lambda: tied(TiedToLayer), lambda: tied(TiedToVariable)],
)
def test_what_is_used_twice_counts_once(make):
    keras.utils.set_random_seed(0)
    model = wrapped(model=make())
    assert len(masked(model).kernels) == 2
    (callback,) = ours(0.5)
    fit(model, 3, [callback])
    assert_zeros(model, 27)
    assert sum(callback.prunings[0].counts.values()) == 27
    # 36 + 18 weights in kernels, 6 + 3 in biases.
    assert keras_bimp.sparsity(model) == (27 / 54, 27 / 63)
    assert keras_bimp.sparsity(keras_bimp.strip(model)) == (
        27 / 54,
        27 / 63,
    )


# Quantized layers, and low-rank adaptation.


def adapted(which):
    model = dense_model()
    for i in which:
        model.layers[i].enable_lora(2)
    return model


def test_a_quantized_layer_is_refused():
    model = dense_model()
    model.layers[-1].quantize("int8")
    with pytest.raises(ValueError, match=r"prune.*quantize.*dense.*'int8'"):
        keras_bimp.wrap(model)


def test_a_layer_quantized_after_wrapping_is_refused():
    plain = dense_model()
    model = keras_bimp.wrap(plain)
    plain.layers[-1].quantize("int8")
    before = bits(model, optimizer=False)
    with pytest.raises(ValueError, match=r"prune.*quantize.*dense.*'int8'"):
        keras_bimp.prune(model, 0.5)
    assert bits(model, optimizer=False) == before


@pytest.mark.parametrize("which", [[0], [0, -1]])
def test_a_layer_with_lora_is_refused(which):
    with pytest.raises(ValueError, match=r"prune.*`enable_lora`.*dense"):
        keras_bimp.wrap(adapted(which))


@pytest.mark.parametrize("during_fit", [False, True])
def test_a_layer_with_lora_enabled_after_wrapping_is_refused(during_fit):
    plain = dense_model()
    model = keras_bimp.wrap(plain)
    plain.layers[0].enable_lora(2)
    compile_model(model)
    before = bits(model, optimizer=False)
    with pytest.raises(ValueError, match=r"prune.*`enable_lora`.*dense"):
        prune(model, 0.5, during_fit)
    assert bits(model, optimizer=False) == before


# One weight.


def one_weight():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    model = keras_bimp.wrap(model)
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("on_collapse", ["protect", "raise", "ignore"])
def test_half_of_one_weight_is_none(on_collapse):
    model = one_weight()
    before = bits(model)
    pruning = keras_bimp.prune(model, 0.5, on_collapse=on_collapse)
    assert bits(model) == before
    assert list(pruning.counts.values()) == [1]
    assert pruning.protected == ()
    (callback,) = ours(0.5, on_collapse=on_collapse)
    x = np.ones((4, 1), "float32")
    history = model.fit(x, x, epochs=2, verbose=0, callbacks=[callback])
    assert history.history["sparsity"] == [0, 0]
    assert_zeros(model, 0)


@pytest.mark.parametrize("on_collapse", ["protect", "raise", "ignore"])
@pytest.mark.parametrize("target", [0.51, 0.95])
def test_the_only_weight_cannot_be_pruned(target, on_collapse):
    model = one_weight()
    x = np.ones((4, 1), "float32")
    with_built_optimizer(model)
    before = bits(model)
    with pytest.raises(ValueError, match=r"sparsity.*\b1 weight"):
        keras_bimp.prune(model, target, on_collapse=on_collapse)
    with pytest.raises(ValueError, match=r"sparsity.*\b1 weight"):
        model.fit(
            x,
            x,
            epochs=2,
            verbose=0,
            callbacks=ours(target, on_collapse=on_collapse),
        )
    assert bits(model) == before
