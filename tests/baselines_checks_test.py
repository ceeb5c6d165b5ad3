"""Errors of the stable methods, and when they are raised."""

import functools

import keras
import numpy as np
import pytest
from baselines_test import EPOCHS
from baselines_test import RECIPES
from baselines_test import sparsity
from baselines_test import wrapped
from helpers import TOTAL
from helpers import array
from helpers import compile_model
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import gradients
from helpers import masked
from keras import ops
from two_replicas import dense_model_without_batch_norm
from two_replicas import mirrored

import keras_bimp
from keras_bimp import baselines


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: baselines.gmp(1.0), ValueError, "target_sparsity"),
        (lambda: baselines.gmp("0.9"), TypeError, "target_sparsity"),
        (lambda: baselines.gmp(0.9, interval=0), ValueError, "interval"),
        (lambda: baselines.gmp(0.9, interval=1.5), TypeError, "interval"),
        (lambda: baselines.gmp(0.9, allocation="x"), ValueError, "allocation"),
        (lambda: baselines.dpf(0.9, every=0), ValueError, "every"),
        (lambda: baselines.dnw(-0.1), ValueError, "target_sparsity"),
        (lambda: baselines.gsm(1.5), ValueError, "target_sparsity"),
        (lambda: baselines.gsm(0.5, weight_decay=-1), ValueError, "_decay"),
        (lambda: baselines.lc(0.9, weight_decay=-1), ValueError, "_decay"),
        (lambda: baselines.str(weight_decay="x"), TypeError, "_decay"),
        (lambda: baselines.cs(penalty=-1), ValueError, "penalty"),
        (lambda: baselines.cs(beta_final=0), ValueError, "beta_final"),
        (lambda: baselines.dst(alpha=float("nan")), ValueError, "alpha"),
        (lambda: baselines.str(s_init="x"), TypeError, "s_init"),
        (lambda: baselines.cs(s_init=float("nan")), ValueError, "s_init"),
    ],
)
def test_bad_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=f"{message}`"):
        make()


@pytest.mark.slow
@pytest.mark.parametrize("allocation", ["uniform", "erk"])
def test_other_allocations(allocation):
    pruned = keras_bimp.wrap(dense_model())
    expected = keras_bimp.prune(pruned, 0.5, allocation=allocation)
    for make in (
        functools.partial(baselines.gmp, interval=2),
        functools.partial(baselines.gmp, interval=2, hard=True),
        baselines.gsm,
        baselines.lc,
    ):
        recipe = make(0.5, allocation=allocation, verbose=0)
        model = wrapped(recipe)
        fit(model, 4, recipe.callbacks)
        left = [array(mask).sum() for mask in masked(model).masks]
        assert left == list(expected.counts.values())
    for make in (baselines.dpf, baselines.dnw):
        with pytest.raises(ValueError, match=f"`allocation`.*'{allocation}'"):
            make(0.5, allocation=allocation)
        make(0.5, allocation="global")


def refused(model, recipe, message):
    """Checks that a `fit` is refused before anything has changed."""
    before = [array(v) for v in model.variables]
    with pytest.raises(ValueError, match=message):
        fit(model, EPOCHS, recipe.callbacks)
    for one, other in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(array(one), other)


@pytest.mark.parametrize("hard", [False, True])
def test_an_interval_without_a_pruning_is_refused(hard):
    recipe = baselines.gmp(0.5, interval=4, hard=hard)
    model = wrapped(recipe)
    refused(model, recipe, "interval=4, epochs=6")


def test_gsm_without_its_optimizer_is_refused():
    recipe = RECIPES["gsm"]()
    model = compile_model(keras_bimp.wrap(dense_model(), rule=recipe.rule))
    refused(model, recipe, r"recipe\.optimizer.*SGD")
    scaled = keras.optimizers.LossScaleOptimizer(recipe.optimizer)
    fit(compile_model(model, scaled), EPOCHS, recipe.callbacks)
    assert sparsity(model) == round(0.77 * TOTAL) / TOTAL


@pytest.mark.parametrize("method", ["gsm", "lc"])
def test_a_regularizer_beside_the_methods_own_decay_is_refused(method):
    recipe = RECIPES[method]()
    model = keras_bimp.wrap(
        dense_model(kernel_regularizer="l2"), rule=recipe.rule
    )
    compile_model(model, recipe.optimizer)
    refused(model, recipe, "`weight_decay`.*dense")


@pytest.mark.parametrize("method", list(RECIPES))
def test_a_model_wrapped_with_another_rule_is_refused(method):
    recipe = RECIPES[method]()
    rule = None if method != "gmp_hard" else baselines.Soft()
    model = keras_bimp.wrap(dense_model(), rule=rule)
    compile_model(model, recipe.optimizer)
    refused(model, recipe, r"rule=recipe\.rule")


def test_two_methods_in_one_fit_are_refused():
    recipe = RECIPES["gmp"]()
    for others in (
        RECIPES["gmp"]().callbacks,
        keras_bimp.callbacks(0.5, dense_epochs=1, verbose=0),
    ):
        both = recipe._replace(callbacks=[*recipe.callbacks, *others])
        with pytest.raises(
            ValueError, match=f"`callbacks`.*{type(others[0]).__name__}"
        ):
            fit(wrapped(recipe), EPOCHS, both.callbacks)


def test_gates_must_know_when_the_training_ends():
    def batches():
        while True:
            yield data()

    recipe = RECIPES["cs"]()
    model = wrapped(recipe)
    fit = functools.partial(
        keras.Model.fit, shuffle=False, verbose=0, callbacks=recipe.callbacks
    )
    with pytest.raises(ValueError, match="`steps_per_epoch`"):
        fit(model, batches())
    fit(model, batches(), steps_per_epoch=2)


def test_gsm_chooses_among_what_is_masked():
    recipe = baselines.gsm(0.5, weight_decay=0.5, verbose=0)
    model = keras_bimp.wrap(
        dense_model(),
        rule=recipe.rule,
        exclude=lambda layer: getattr(layer, "units", 8) == 3,
    )
    ((kernel),) = masked(model).kernels
    (left_alone,) = [v for v in model.variables if v.shape == (8, 3)]
    compile_model(model, recipe.optimizer)
    x, y = data()
    before = array(kernel.variable), array(left_alone)
    loss, found = gradients(model, model.loss, x, y)
    del loss
    found = {
        v.path: ops.convert_to_numpy(g)
        for v, g in zip(model.trainable_variables, found, strict=True)
    }
    model.fit(x, y, batch_size=64, verbose=0, callbacks=recipe.callbacks)
    ours, others = found[kernel.path], found[left_alone.path]
    importance = abs(before[0] * ours)
    kept = importance > np.median(importance)
    assert kept.sum() == 24
    np.testing.assert_allclose(
        array(kernel.variable),
        before[0] - 0.1 * (ours * kept + 0.5 * before[0]),
        atol=1e-5,
    )
    np.testing.assert_allclose(
        array(left_alone), before[1] - 0.1 * others, atol=1e-5
    )


@pytest.mark.every_backend
def test_an_optimizer_that_mixes_the_entries_of_a_kernel_keeps_zeros():
    recipe = RECIPES["gmp_hard"]()
    model = keras_bimp.wrap(dense_model(), rule=recipe.rule)
    fit(
        compile_model(model, keras.optimizers.Muon(0.01)),
        EPOCHS,
        recipe.callbacks,
    )
    kernels = [array(kernel.variable) for kernel in masked(model).kernels]
    assert sum((w == 0).sum() for w in kernels) == round(0.77 * TOTAL)


@pytest.mark.job("replicas")
def test_in_two_replicas_it_is_as_in_one():
    for method in ("dpf", "cs", "gsm"):
        make, ends = RECIPES[method], []
        with mirrored().scope():
            recipe = make()
            spread = keras_bimp.wrap(
                dense_model_without_batch_norm(), rule=recipe.rule
            )
            optimizer = recipe.optimizer or keras.optimizers.SGD(0.1)
            compile_model(spread, optimizer)
        if method == "gsm":
            with pytest.raises(
                ValueError, match=r"`gsm`.*MirroredStrategy.* 2 "
            ):
                fit(spread, EPOCHS, recipe.callbacks)
            continue
        alone = keras_bimp.wrap(
            dense_model_without_batch_norm(), rule=recipe.rule
        )
        compile_model(alone, keras.optimizers.SGD(0.1))
        for model in (spread, alone):
            history = fit(model, EPOCHS, make().callbacks).history
            ends.append((history["loss"], history["sparsity"]))
        np.testing.assert_allclose(*ends, rtol=1e-4)
