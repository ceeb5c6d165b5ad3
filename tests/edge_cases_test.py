import csv

import keras
import numpy as np
import pytest
from helpers import STEPS
from helpers import TOTAL
from helpers import array
from helpers import compile_model
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import kernels_and_masks
from helpers import lines_with
from helpers import masked
from helpers import rates_of
from helpers import skip_unless_steps_run_together
from helpers import wrapped
from helpers import zeros
from keras import layers
from keras import ops

import keras_bimp
from keras_bimp._src import schedules
from keras_bimp._src.backup.generations import Generations

POLICIES = ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16"]


def ours(target_sparsity, dense_epochs=1, **kwargs):
    return keras_bimp.callbacks(
        target_sparsity,
        **{"dense_epochs": dense_epochs, "verbose": 0, **kwargs},
    )


def with_built_optimizer(model=None):
    """Builds a model whose optimizer has slots."""
    model = wrapped() if model is None else model
    model.optimizer.build(model.trainable_variables)
    for slot in model.optimizer.variables:
        if len(slot.shape):
            slot.assign(np.full(slot.shape, 0.125))
    return model


def prune(model, target_sparsity, during_fit, **kwargs):
    """Prunes manually, or immediately by callbacks."""
    if during_fit:
        fit(model, 1, ours(target_sparsity, 0, **kwargs))
    else:
        keras_bimp.prune(model, target_sparsity, **kwargs)


def bits(model, optimizer=True):
    """Returns the bits of all weights, masks and optimizer variables."""
    variables = list(model.weights)
    if optimizer:
        variables += model.optimizer.variables
    return [array(v).tobytes() for v in variables]


def mask_bits(model):
    return [mask.tobytes() for _, mask in kernels_and_masks(model)]


def magnitudes(model):
    kernels = [k.astype("float32").ravel() for k, _ in kernels_and_masks(model)]
    return np.abs(np.concatenate(kernels))


def all_masks(model):
    return np.concatenate([m.ravel() for _, m in kernels_and_masks(model)])


def without_the_smallest(values, count):
    """Masks the `count` smallest values; for ties, the first ones."""
    mask = np.ones(values.size, bool)
    mask[np.argsort(values, kind="stable")[:count]] = False
    return mask


def assert_zeros(model, count):
    """Asserts that `count` weights are pruned, and only these are 0."""
    assert (~all_masks(model)).sum() == count
    for kernel, mask in kernels_and_masks(model):
        assert np.isfinite(kernel.astype("float32")).all()
        np.testing.assert_array_equal(kernel == 0, ~mask)


def said(warned):
    """Returns the messages of warnings, except NumPy's about others."""
    return [
        str(w.message)
        for w in warned
        if not issubclass(w.category, DeprecationWarning)
    ]


def set_kernels(model, values):
    """Sets the weights of all kernels, one after another."""
    for kernel in masked(model).kernels:
        part, values = values[: kernel.size], values[kernel.size :]
        kernel.variable.assign(part.reshape(kernel.variable.shape))


# 1. Nothing to prune.


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


# 2. Ties.


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


# 3. Less than is already pruned.


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


# 4. Collapse.


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


# 5. Zeros of both signs, and the smallest numbers.


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


# 6. Half precision.


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


# 7. Frozen layers.


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


# 8. Shared layers.


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


# 9. Quantized layers, and low-rank adaptation.


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


# 10. One weight.


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


# 11. Our callbacks, twice.


@pytest.mark.parametrize("same", [False, True])
def test_two_lists_in_one_fit_are_refused_and_leave_nothing(same):
    model = with_built_optimizer()
    before, rate = bits(model), model.optimizer._learning_rate
    first = ours(0.5)
    second = first if same else ours(0.75)
    with pytest.raises(
        ValueError, match=r"`callbacks`.*`keras_bimp\.callbacks`"
    ):
        fit(model, 3, [*first, *second])
    assert bits(model) == before
    assert model.optimizer._learning_rate is rate
    fit(model, 3, first)
    assert_zeros(model, 36)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


# 12. Every boundary.

HOOKS = (
    "on_train_begin",
    "on_epoch_begin",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_begin",
    "on_test_batch_begin",
    "on_test_batch_end",
    "on_test_end",
    "on_epoch_end",
    "on_train_end",
)


class WatchEveryHook(keras.callbacks.Callback):
    """Checks at each hook that pruned weights and their slots are 0."""

    def __init__(self):
        super().__init__()
        self.seen = []
        for hook in HOOKS:
            setattr(self, hook, self.checking(hook))

    def checking(self, hook):
        def check(*args, **kwargs):
            pruned = 0
            optimizer = self.model.optimizer
            for kernel, mask in kernels_and_masks(self.model):
                assert (kernel[~mask] == 0).all(), hook
                # The two kernels differ in shape, biases in rank.
                slots = [
                    v for v in optimizer.variables if v.shape == mask.shape
                ]
                for slot in slots:
                    assert (array(slot)[~mask] == 0).all(), (hook, slot.path)
                pruned += (~mask).sum()
            self.seen.append((hook, int(pruned), len(slots)))

        return check


OPTIMIZERS = {
    "decay": (
        "SGD",
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        1,
    ),
    "adamw": ("AdamW", {"weight_decay": 0.1}, 2),
    "average": ("SGD", {"momentum": 0.9, "use_ema": True}, 2),
    "overwritten": (
        "AdamW",
        {"use_ema": True, "ema_overwrite_frequency": 3, "ema_momentum": 0.5},
        3,
    ),
}


@pytest.mark.parametrize(
    ("name", "together"),
    [
        ("decay", 2),
        ("overwritten", 1),
        *(
            pytest.param(name, together, marks=pytest.mark.slow)
            for name, together in (
                ("decay", 1),
                ("adamw", 1),
                ("average", 1),
                ("overwritten", 2),
            )
        ),
    ],
)
def test_what_is_pruned_is_zero_at_every_boundary(name, together):
    if together > 1:
        skip_unless_steps_run_together()
    kind, arguments, slots = OPTIMIZERS[name]
    model = wrapped(
        getattr(keras.optimizers, kind)(0.05, **arguments),
        steps_per_execution=together,
    )
    watch = WatchEveryHook()
    fit(
        model,
        4,
        [*ours(0.8, 1, cycles=2), watch],
        validation_data=data(16, seed=1),
    )
    assert {hook for hook, _, _ in watch.seen} == set(HOOKS)
    assert {count for _, _, count in watch.seen[5:]} == {slots}
    counts = [count for hook, count, _ in watch.seen if hook == HOOKS[1]]
    assert counts == [0, 40, 58, 58]
    ends = [count for hook, count, _ in watch.seen if "batch_end" in hook]
    assert sorted(set(ends)) == [0, 40, 58]
    # After the last callback Keras may set weights to their averages.
    assert_zeros(model, 58)


# 13. In the middle of a plan.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("initial_epoch", "missed", "counts", "cycles"),
    [
        (2, 0, [30, 30, 47, 47, 58, 58], [1, 1, 2, 2, 3, 3]),
        (4, 1, [47, 47, 58, 58], [2, 2, 3, 3]),
        (5, 1, [47, 58, 58], [2, 3, 3]),
        (7, 2, [58], [3]),
    ],
)
def test_initial_epoch_counts_what_was_before_as_done(
    initial_epoch, missed, counts, cycles
):
    class First(keras.callbacks.Callback):
        count = None

        def on_train_batch_begin(self, batch, logs=None):
            if self.count is None:
                self.count = zeros(self.model)

    model, first = wrapped(), First()
    (callback,) = ours(0.8, 2, cycles=3)
    arguments = {
        "callbacks": [callback, first],
        "initial_epoch": initial_epoch,
    }
    if missed:
        text = rf"`fit`.* {initial_epoch}\b.* {missed} "
        with pytest.warns(UserWarning, match=text) as warned:
            history = fit(model, 8, **arguments).history
        assert len(said(warned)) == 1
    else:
        history = fit(model, 8, **arguments).history
    assert first.count == counts[0]
    np.testing.assert_allclose(np.array(history["sparsity"]) * TOTAL, counts)
    assert history["cycle"] == cycles
    assert len(callback.prunings) == len(set(counts) - {0})
    # The rates are those of the remaining epochs.
    np.testing.assert_allclose(
        history["learning_rate"],
        rates_of(callback)[STEPS - 1 :: STEPS][initial_epoch:]
        if min(history["discount"]) == 1
        else history["learning_rate"],
        rtol=1e-6,
    )
    assert_zeros(model, 58)


# 14. A second time.


def test_a_second_fit_counts_anew_and_keeps_what_is_pruned():
    model = wrapped()
    (callback,) = ours(0.75, cycles=2)
    fit(model, 4, [callback])
    assert len(callback.prunings) == 2
    plan, masks = callback.plan, mask_bits(model)
    iterations = int(model.optimizer.iterations)
    with pytest.warns(UserWarning, match=r"\b54 .*\b72 "):
        history = fit(model, 5, [callback])
    assert callback.plan is not plan
    assert (plan.epochs, callback.plan.epochs) == (4, 5)
    assert len(callback.prunings) == 2
    assert history.epoch == [0, 1, 2, 3, 4]
    assert history.history["cycle"] == [0, 1, 1, 2, 2]
    assert history.history["norm_drop"] == [0] * 5
    # The last step of a line from 0.1 to 0.
    assert history.history["learning_rate"][0] == pytest.approx(0.1 / STEPS)
    assert int(model.optimizer.iterations) == iterations + 5 * STEPS
    assert mask_bits(model) == masks
    assert_zeros(model, 54)


def test_a_second_fit_to_more_prunes_what_is_left():
    model = wrapped()
    fit(model, 2, ours(0.5))
    before = all_masks(model)
    (callback,) = ours(0.75)
    history = fit(model, 3, [callback]).history
    assert history["sparsity"] == [0.5, 0.75, 0.75]
    assert callback.prunings[0].pruned_fraction == 18 / 36
    assert not (all_masks(model) & ~before).any()
    assert_zeros(model, 54)


# 15. Others that set the learning rate.


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.callbacks.ReduceLROnPlateau("loss"),
        lambda: keras.callbacks.LearningRateScheduler(lambda epoch: 0.5),
    ],
)
def test_another_that_sets_the_learning_rate_is_refused(make, place, tmp_path):
    model, other = with_built_optimizer(), make()
    before, rate = bits(model), model.optimizer._learning_rate
    callbacks = beside(
        ours(0.5, backup_dir=tmp_path / "backup"), [other], place
    )
    with pytest.raises(ValueError, match=type(other).__name__):
        fit(model, 3, callbacks)
    assert bits(model) == before
    assert model.optimizer._learning_rate is rate
    assert not (tmp_path / "backup").exists()


def beside(callbacks, others, place):
    before = place == "before"
    return [*others, *callbacks] if before else [*callbacks, *others]


# 16. Arguments of `fit` other than the data.


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"validation_data": data(32, seed=1)},
        {"class_weight": {0: 1.0, 1: 3.0, 2: 0.5}},
        {
            "sample_weight": np.linspace(0, 2, 64, dtype="float32"),
            "validation_split": 0.5,
        },
    ],
    ids=" ".join,
)
def test_the_dense_phase_is_a_training_without_us(arguments):
    steps = STEPS * (1 - arguments.get("validation_split", 0))
    plain = compile_model(dense_model(), keras.optimizers.SGD(0.05))
    expected = fit(plain, 2, **arguments).history
    model = wrapped(keras.optimizers.SGD(0.05))
    (callback,) = ours(
        0.6, 2, dense_schedule=schedules.Constant(0.05, 2 * int(steps))
    )
    history = fit(model, 4, [callback], **arguments).history
    assert callback.plan.steps_per_epoch == steps
    assert set(expected) < set(history)
    for name, values in expected.items():
        assert history[name][:2] == values
        assert len(history[name]) == 4
    assert_zeros(model, 43)


# 17. Data that end early.


def batches(fails_at=None):
    """Yields the batches of `fit` repeatedly, or until it fails."""
    x, y = data()
    drawn = 0
    while True:
        for i in range(0, 64, 16):
            if drawn == fails_at:
                raise OSError("the disk is gone")
            drawn += 1
            yield x[i : i + 16], y[i : i + 16]


def fit_batches(model, callbacks, fails_at=None, epochs=4):
    return model.fit(
        batches(fails_at),
        epochs=epochs,
        steps_per_epoch=STEPS,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )


@pytest.mark.slow
@pytest.mark.parametrize("fails_at", [STEPS + 1, 2 * STEPS + 2])
def test_after_data_that_broke_off_a_new_fit_works(fails_at):
    model = wrapped()
    callbacks = ours(0.75, cycles=2)
    with pytest.raises(Exception, match="the disk is gone"):
        fit_batches(model, callbacks, fails_at)
    assert_zeros(model, {STEPS + 1: 36, 2 * STEPS + 2: 54}[fails_at])
    if fails_at > 2 * STEPS:
        with pytest.warns(UserWarning, match=r"\b54 .*\b72 "):
            history = fit_batches(model, callbacks)
    else:
        history = fit_batches(model, callbacks)
    assert history.epoch == [0, 1, 2, 3]
    assert len(callbacks[0].prunings) == 2
    assert_zeros(model, 54)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


@pytest.fixture(scope="module")
def undisturbed():
    model = wrapped()
    return model, fit_batches(model, ours(0.75, cycles=2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fails_at", "new"),
    [(2, True), (STEPS + 1, False), (3 * STEPS + 3, True)],
)
def test_after_data_that_broke_off_a_backup_goes_on(
    fails_at, new, undisturbed, tmp_path, capsys
):
    model, expected = undisturbed
    bits_expected = bits(model)
    model = wrapped()
    callbacks = ours(0.75, cycles=2, backup_dir=tmp_path / "run", verbose=1)
    with pytest.raises(Exception, match="the disk is gone"):
        fit_batches(model, callbacks, fails_at)
    assert str(tmp_path) not in capsys.readouterr().out
    if new:
        model = wrapped()
        callbacks = ours(0.75, cycles=2, backup_dir=tmp_path / "run", verbose=1)
    history = fit_batches(model, callbacks)
    # It repeats the epoch, with the same batches.
    assert lines_with(
        capsys.readouterr().out,
        f"{fails_at // STEPS + 1}",
        "4",
        "0",
        str(tmp_path / "run"),
    )
    assert history.epoch == [0, 1, 2, 3]
    assert history.history == expected.history
    assert bits(model) == bits_expected
    assert_zeros(model, 54)


# 18. Trainings that fail.


class Breaking(keras.utils.PyDataset):
    """The batches of `fit`, one of which makes the training fail."""

    def __init__(self, epoch=None, value=np.nan):
        super().__init__()
        self.epoch = None
        self.bad, self.value = (epoch, 1), value

    def __len__(self):
        return STEPS

    def __getitem__(self, i):
        x, y = data()
        part = slice(16 * i, 16 * i + 16)
        weights = np.ones(16, "float32")
        if (self.epoch, i) == self.bad:
            weights[3] = self.value
        return x[part], y[part], weights


class TellEpoch(keras.callbacks.Callback):
    def __init__(self, dataset):
        super().__init__()
        self.dataset = dataset

    def on_epoch_begin(self, epoch, logs=None):
        self.dataset.epoch = epoch


def fit_breaking(model, callbacks, dataset):
    return model.fit(
        dataset,
        epochs=5,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, TellEpoch(dataset)],
    )


@pytest.mark.parametrize(("value", "epoch"), [(np.nan, 0), (np.inf, 3)])
def test_a_training_that_breaks_stops_and_is_not_exported(
    value, epoch, tmp_path
):
    model = wrapped()
    text = rf"loss.* {epoch + 1} "
    with pytest.warns(RuntimeWarning, match=text) as warned:
        history = fit_breaking(
            model, ours(0.75, 2, cycles=2), Breaking(epoch, value)
        )
    assert len(said(warned)) == 1
    assert history.epoch == list(range(epoch + 1))
    assert not np.isfinite(history.history["loss"][-1])
    assert np.isfinite(history.history["loss"][:-1]).all()
    stripped = keras_bimp.strip(model)
    with pytest.raises(ValueError, match="`model`.*" + text):
        keras_bimp.export(stripped, tmp_path / "1")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "save_freq"), [(np.nan, "epoch"), (np.inf, 1)]
)
def test_a_backup_of_a_training_that_breaks_is_good(value, save_freq, tmp_path):
    def callbacks():
        return ours(
            0.75,
            2,
            cycles=2,
            backup_dir=tmp_path / "run",
            save_freq=save_freq,
        )

    model = wrapped()
    with pytest.warns(RuntimeWarning, match="epoch 4 ") as warned:
        fit_breaking(model, callbacks(), Breaking(3, value))
    assert len(said(warned)) == 1
    state = Generations(tmp_path / "run").read()
    assert (state["epoch"], state["batch"]) == (
        3,
        0 if save_freq == "epoch" else 1,
    )
    arrays = [a for a in keras.tree.flatten(state["training"])]
    assert sum(isinstance(a, np.ndarray) for a in arrays) > 10
    for each in arrays:
        assert np.isfinite(each).all()

    model = wrapped()
    with pytest.warns(UserWarning, match="epoch 4 ") as warned:
        history = fit_breaking(model, callbacks(), Breaking())
    assert len(said(warned)) == 1
    assert history.epoch == [0, 1, 2, 3, 4]
    assert np.isfinite(history.history["loss"]).all()
    assert_zeros(model, 54)


# 19. Keras callbacks.

# Best in the dense phase, then in the second epoch after each pruning.
RIGGED = (0.1, 0.2, 3.0, 2.0, 5.0, 4.0, 4.5)
EPOCHS = len(RIGGED)
COUNTS = [0, 0, 36, 36, 54, 54, 54]


class Rig(keras.callbacks.Callback):
    """Sets the validation loss; list it first."""

    def __init__(self, losses):
        super().__init__()
        self.losses = losses

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.losses[epoch]


class KeepWeights(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append([array(v) for v in self.model.weights])


PLACES = pytest.mark.parametrize("place", ["before", "after"])


def fit_beside(others, place, losses=RIGGED):
    model, keep = wrapped(), KeepWeights()
    callbacks = beside(ours(0.75, 2, cycles=2), others, place)
    history = fit(
        model,
        EPOCHS,
        [Rig(losses), keep, *callbacks],
    )
    return model, keep.weights, history


def assert_same_weights(model, arrays):
    for variable, expected in zip(model.weights, arrays, strict=True):
        np.testing.assert_array_equal(array(variable), expected)


@pytest.mark.parametrize(
    ("place", "save_freq"), [("before", "epoch"), ("after", 3)]
)
def test_every_checkpoint_is_sparse(place, save_freq, tmp_path):
    other = keras.callbacks.ModelCheckpoint(
        tmp_path / "{epoch:02d}.keras", save_freq=save_freq
    )
    fit_beside([other], place)
    paths = sorted(tmp_path.iterdir())
    assert [path.stem for path in paths] == [
        f"{epoch + 1:02d}" for epoch in range(EPOCHS)
    ]
    for path, count in zip(paths, COUNTS, strict=True):
        loaded = keras.models.load_model(path)
        assert_zeros(loaded, count)
        for kernel, mask in kernels_and_masks(loaded):
            for slot in loaded.optimizer.variables:
                if slot.shape == kernel.shape:
                    assert (array(slot)[~mask] == 0).all()


@pytest.mark.slow
@PLACES
def test_the_best_epoch_is_one_since_the_last_pruning(place, tmp_path):
    others = [
        keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", monitor="val_loss", save_best_only=True
        ),
        keras.callbacks.EarlyStopping(
            "val_loss", patience=2, restore_best_weights=True
        ),
        keras.callbacks.TerminateOnNaN(),
    ]
    model, weights, history = fit_beside(others, place)
    assert len(history.epoch) == EPOCHS
    assert_same_weights(model, weights[5])
    assert_zeros(model, 54)
    loaded = keras.models.load_model(tmp_path / "best.keras")
    assert_same_weights(loaded, weights[5])
    assert_zeros(loaded, 54)
    stripped = keras_bimp.strip(loaded)
    assert keras_bimp.sparsity(stripped).prunable == 0.75


@pytest.mark.slow
def test_early_stopping_that_stops_leaves_the_best_since_the_last_pruning():
    other = keras.callbacks.EarlyStopping(
        "val_loss", patience=1, restore_best_weights=True
    )
    losses = (0.2, 0.1, 3.0, 2.0, 4.0, 5.0)
    model, weights, history = fit_beside([other], "after", losses)
    assert history.epoch == [0, 1, 2, 3, 4, 5]
    assert_same_weights(model, weights[4])
    assert_zeros(model, 54)


@pytest.mark.slow
@PLACES
def test_terminate_on_nan_and_we_stop_a_broken_training_once(place, capsys):
    model = wrapped()
    callbacks = beside(
        ours(0.75, 2, cycles=2), [keras.callbacks.TerminateOnNaN()], place
    )
    with pytest.warns(RuntimeWarning, match="loss.* 4 ") as warned:
        history = fit_breaking(model, callbacks, Breaking(3))
    assert len(said(warned)) == 1
    assert "Batch 1: Invalid loss" in capsys.readouterr().out
    assert history.epoch == [0, 1, 2, 3]


def read_csv(path):
    with open(path) as file:
        return list(csv.DictReader(file))


LOGS = ("sparsity", "learning_rate", "cycle", "norm_drop", "discount")


def test_a_csv_after_ours_has_our_columns(tmp_path):
    other = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    model, _, history = fit_beside([other], "after")
    rows = read_csv(tmp_path / "log.csv")
    for name in LOGS:
        assert [float(row[name]) for row in rows] == pytest.approx(
            history.history[name], abs=0
        )
    assert [round(float(row["sparsity"]) * TOTAL) for row in rows] == COUNTS
    assert [int(row["cycle"]) for row in rows] == [0, 0, 1, 1, 2, 2, 2]
    assert_zeros(model, 54)


def test_a_csv_before_ours_warns_once_and_lacks_our_columns(tmp_path):
    other = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    with pytest.warns(
        UserWarning, match=r"CSVLogger.*`keras_bimp\.callbacks`"
    ) as warned:
        model, _, _ = fit_beside([other], "before")
    assert len(said(warned)) == 1
    rows = read_csv(tmp_path / "log.csv")
    assert len(rows) == EPOCHS
    assert "loss" in rows[0]
    assert not set(LOGS) & set(rows[0])
    assert_zeros(model, 54)


def board_tags(folder):
    import tensorflow as tf

    tags = set()
    for path in folder.rglob("*tfevents*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            tags |= {value.tag for value in event.summary.value}
    return tags


@pytest.mark.slow
@PLACES
def test_tensorboard_shows_our_logs_after_ours(place, tmp_path):
    other = keras.callbacks.TensorBoard(tmp_path, histogram_freq=1)
    if place == "before":
        with pytest.warns(
            UserWarning, match=r"TensorBoard.*`keras_bimp\.callbacks`"
        ) as warned:
            model, weights, _ = fit_beside([other], place)
        assert len(said(warned)) == 1
    else:
        model, weights, _ = fit_beside([other], place)
    tags = board_tags(tmp_path)
    assert "epoch_loss" in tags
    # It reads the learning rate itself.
    expected = LOGS if place == "after" else ["learning_rate"]
    shown = {name for name in LOGS if f"epoch_{name}" in tags}
    assert shown == set(expected)
    assert_same_weights(model, weights[-1])
    assert_zeros(model, 54)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "validates"), [("before", False), ("after", True)]
)
def test_swapped_averages_are_sparse(place, validates, tmp_path):
    others = [
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch:02d}.keras"),
    ]
    optimizer = keras.optimizers.SGD(
        0.1, momentum=0.9, use_ema=True, ema_momentum=0.5
    )
    model = wrapped(optimizer)
    watch = WatchEveryHook()
    callbacks = beside(ours(0.75, 2, cycles=2), others, place)
    fit(
        model,
        EPOCHS,
        [*callbacks, watch],
        validation_data=data(32, seed=1) if validates else None,
    )
    counts = [count for hook, count, _ in watch.seen if hook == HOOKS[1]]
    assert counts == COUNTS
    for epoch in (1, 2, 6):
        path = tmp_path / f"{epoch + 1:02d}.keras"
        assert_zeros(keras.models.load_model(path), COUNTS[epoch])
    assert_zeros(model, 54)
    x, y = data()
    assert np.isfinite(model.evaluate(x, y, verbose=0)).all()
    assert_zeros(model, 54)
