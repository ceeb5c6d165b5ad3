"""Layers that are frozen or unfrozen after wrapping."""

import keras
import numpy as np
import pytest
from helpers import STEPS
from helpers import array
from helpers import compile_model
from helpers import data
from helpers import fit
from helpers import gradients
from helpers import masked
from helpers import skip_unless_steps_run_together
from keras import layers

import keras_bimp
from keras_bimp import baselines

pytestmark = [pytest.mark.every_backend, pytest.mark.slow]

KERNELS = {"a": 48, "b": 64, "head": 24}
EVERY = sum(KERNELS.values())


def transfer(frozen=("a", "b")):
    """Builds a model of a base with frozen layers, and a head."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    base = keras.Model(
        inputs,
        layers.Dense(8, name="b")(
            layers.Dense(8, activation="relu", name="a")(inputs)
        ),
    )
    for name in frozen:
        base.get_layer(name).trainable = False
    inputs = keras.Input((6,))
    return keras.Model(
        inputs, layers.Dense(3, name="head")(base(inputs, training=False))
    )


def base_of(model):
    return model.layers[1]


def set_trainable(model, trainable, names=("a", "b")):
    # Not the base: on TensorFlow, Keras ignores a value that is already set.
    for name in names:
        base_of(model).get_layer(name).trainable = trainable


def rate(value=0.1):
    return keras.optimizers.SGD(value, momentum=0.9)


def run(target, **kwargs):
    return keras_bimp.callbacks(target, dense_epochs=1, verbose=0, **kwargs)


def zeros_of(model):
    return {
        layer.name: int((array(layer.kernel) == 0).sum())
        for layer in model._flatten_layers()
        if isinstance(layer, layers.Dense)
    }


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("how", ["callbacks", "prune"])
def test_what_is_unfrozen_is_pruned(how, trained):
    model = transfer()
    wrapped = compile_model(keras_bimp.wrap(model), rate())
    assert dict(masked(wrapped).skipped) == {
        "a/kernel": "frozen",
        "b/kernel": "frozen",
    }
    if trained:
        fit(wrapped, 1)
    set_trainable(model, True)
    compile_model(wrapped, rate())
    pruned = round(0.8 * EVERY)
    if how == "callbacks":
        callbacks = run(0.8)
        logs = fit(wrapped, 2, callbacks).history
        assert callbacks[0].plan.skipped == ()
        assert dict(callbacks[0].plan.prunable) == {
            f"{name}/kernel": size for name, size in KERNELS.items()
        }
        assert logs["sparsity"][-1] == pruned / EVERY
    else:
        fit(wrapped, 1)
        pruning = keras_bimp.prune(wrapped, 0.8)
        assert sum(pruning.counts.values()) == EVERY - pruned
        assert pruning.skipped == ()
        fit(wrapped, 2)
    assert masked(wrapped).skipped == ()
    assert sum(zeros_of(model).values()) == pruned
    stripped = keras_bimp.strip(wrapped)
    assert keras_bimp.sparsity(stripped).prunable == pruned / EVERY


def test_a_part_is_unfrozen_between_two_runs_then_the_rest():
    model = transfer()
    wrapped = compile_model(keras_bimp.wrap(model), rate())
    fit(wrapped, 2, run(0.5))
    assert zeros_of(model) == {"a": 0, "b": 0, "head": 12}
    of_the_head = array(masked(wrapped).masks[0])
    set_trainable(model, True, "b")
    compile_model(wrapped, rate())
    fit(wrapped, 2, run(0.5))
    found = zeros_of(model)
    assert found["a"] == 0
    assert found["b"] + found["head"] == round(0.5 * (64 + 24))
    assert dict(masked(wrapped).skipped) == {"a/kernel": "frozen"}
    set_trainable(model, True)
    compile_model(wrapped, rate())
    fit(wrapped, 2, run(0.75))
    assert sum(zeros_of(model).values()) == round(0.75 * EVERY)
    # In the order of the layers, each with its kernel.
    layer = masked(wrapped)
    assert [kernel.path for kernel in layer.kernels] == [
        f"{name}/kernel" for name in KERNELS
    ]
    for kernel, mask in zip(layer.kernels, layer.masks, strict=True):
        np.testing.assert_array_equal(array(kernel.variable) != 0, array(mask))
    assert not array(layer.masks[2])[~of_the_head].any()


def test_what_is_frozen_after_a_pruning_keeps_its_zeros():
    model = transfer(frozen=())
    wrapped = compile_model(keras_bimp.wrap(model), rate())
    fit(wrapped, 2, run(0.5))
    before = array(base_of(model).get_layer("a").kernel)
    set_trainable(model, False)
    compile_model(wrapped, rate())
    callbacks = run(0.75)
    fit(wrapped, 2, callbacks)
    assert dict(callbacks[0].plan.skipped) == {
        "a/kernel": "frozen",
        "b/kernel": "frozen",
    }
    np.testing.assert_array_equal(
        array(base_of(model).get_layer("a").kernel), before
    )
    assert zeros_of(model)["head"] == 18
    set_trainable(model, True)
    compile_model(wrapped, rate())
    kept = zeros_of(model)
    fit(wrapped, 2)
    assert zeros_of(model) == kept


def test_a_loop_that_unfreezes():
    model = transfer()
    wrapped = keras_bimp.wrap(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = rate()
    x, y = data()

    def step():
        _, found = gradients(wrapped, loss, x, y)
        optimizer.apply(found, wrapped.trainable_variables)

    step()
    set_trainable(model, True)
    optimizer = rate()
    step()
    keras_bimp.prune(wrapped, 0.75, optimizer=optimizer)
    for _ in range(3):
        step()
    assert sum(zeros_of(model).values()) == round(0.75 * EVERY)


@pytest.mark.slow
def test_a_traced_step_that_was_made_before_the_first_pruning():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("traced by tf.function")
    import tensorflow as tf

    model = transfer()
    wrapped = keras_bimp.wrap(model)
    set_trainable(model, True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = rate()
    x, y = data()

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            value = loss(y, wrapped(x, training=True))
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(value, variables), variables)

    optimizer.build(model.trainable_variables)
    step()
    keras_bimp.prune(wrapped, 0.75, optimizer=optimizer)
    step()
    assert sum(zeros_of(model).values()) == round(0.75 * EVERY)


def test_todays_zeros_of_what_is_unfrozen_stay():
    model = transfer()
    kernel = base_of(model).get_layer("a").kernel
    value = array(kernel)
    value[:, ::2] = 0.0
    kernel.assign(value)
    wrapped = compile_model(
        keras_bimp.wrap(model, initial_masks="nonzero"), rate()
    )
    set_trainable(model, True)
    compile_model(wrapped, rate())
    fit(wrapped, 2)
    assert zeros_of(model) == {"a": 24, "b": 0, "head": 0}


def test_what_filters_leave_out_is_left_out_unfrozen_too():
    model = transfer()
    wrapped = compile_model(keras_bimp.wrap(model, filters="^head|^b"), rate())
    set_trainable(model, True)
    compile_model(wrapped, rate())
    fit(wrapped, 2, run(0.5))
    found = zeros_of(model)
    assert found["a"] == 0
    assert found["b"] + found["head"] == 44
    assert dict(masked(wrapped).skipped) == {
        "a/kernel": "not matched by `filters`"
    }


@pytest.mark.parametrize("unfrozen_before", [False, True])
def test_a_file_of_either_time(unfrozen_before, tmp_path):
    model = transfer()
    wrapped = compile_model(keras_bimp.wrap(model, exclude="^b"), rate())
    fit(wrapped, 2, run(0.5))
    if unfrozen_before:
        set_trainable(model, True)
        compile_model(wrapped, rate())
        keras_bimp.prune(wrapped, 0.75)
        fit(wrapped, 1)
    wrapped.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    inside = again.wrapper.layer
    assert zeros_of(inside) == zeros_of(model)
    set_trainable(inside, True)
    compile_model(again, rate())
    fit(again, 2, run(0.75))
    found = zeros_of(inside)
    assert found["b"] == 0
    assert found["a"] + found["head"] == 54


@pytest.mark.slow
def test_weights_of_an_unfrozen_model_fit_one_that_never_was(tmp_path):
    model = transfer()
    wrapped = compile_model(keras_bimp.wrap(model), rate())
    set_trainable(model, True)
    compile_model(wrapped, rate())
    keras_bimp.prune(wrapped, 0.75)
    wrapped.save_weights(tmp_path / "m.weights.h5")
    other = transfer(frozen=())
    again = compile_model(keras_bimp.wrap(other), rate())
    again.load_weights(tmp_path / "m.weights.h5")
    assert zeros_of(other) == zeros_of(model)
    fit(again, 1)
    assert zeros_of(other) == zeros_of(model)


def test_a_mask_inside_a_class_of_its_own():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = keras_bimp.Masked(transfer())

        def call(self, x):
            return self.inner(x)

    model = compile_model(Own(), rate())
    fit(model, 1)
    inside = model.inner.layer
    set_trainable(inside, True)
    compile_model(model, rate())
    fit(model, 2, run(0.75))
    assert sum(zeros_of(inside).values()) == round(0.75 * EVERY)


@pytest.mark.slow
def test_a_rule_with_variables_of_its_own():
    recipe = baselines.str(s_init=-5.0, verbose=0)
    model = transfer()
    wrapped = compile_model(keras_bimp.wrap(model, rule=recipe.rule), rate())
    fit(wrapped, 1)
    set_trainable(model, True)
    compile_model(wrapped, rate())
    fit(wrapped, 1, recipe.callbacks)
    rules = masked(wrapped).rules
    assert len(rules) == 3
    assert all((array(rule.s) != -5.0).all() for rule in rules)


@pytest.mark.slow
def test_steps_run_together():
    skip_unless_steps_run_together()
    model = transfer()
    wrapped = compile_model(
        keras_bimp.wrap(model), rate(), steps_per_execution=STEPS
    )
    fit(wrapped, 1)
    set_trainable(model, True)
    compile_model(wrapped, rate(), steps_per_execution=STEPS)
    fit(wrapped, 2, run(0.75))
    assert sum(zeros_of(model).values()) == round(0.75 * EVERY)
