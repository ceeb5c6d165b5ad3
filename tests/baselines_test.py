"""The stable methods on a small classification, from `wrap` to `strip`."""

import keras
import numpy as np
import pytest
from helpers import STEPS
from helpers import TOTAL
from helpers import SaveAfter
from helpers import array
from helpers import compile_model
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import kernels_and_masks
from helpers import lines_with
from helpers import masked
from keras import layers
from keras import ops

import keras_bimp
from keras_bimp import baselines

EPOCHS = 6
QUIET = {"verbose": 0}
RECIPES = {
    "gmp": lambda: baselines.gmp(0.77, interval=2, **QUIET),
    "gmp_hard": lambda: baselines.gmp(0.77, interval=2, hard=True, **QUIET),
    "dpf": lambda: baselines.dpf(0.77, interval=2, every=3, **QUIET),
    "dnw": lambda: baselines.dnw(0.77, **QUIET),
    "gsm": lambda: baselines.gsm(0.77, **QUIET),
    "lc": lambda: baselines.lc(0.77, weight_decay=0.01, **QUIET),
    "str": lambda: baselines.str(s_init=-1.0, weight_decay=0.01, **QUIET),
    "cs": lambda: baselines.cs(s_init=0.02, penalty=0.01, **QUIET),
    "dst": lambda: baselines.dst(alpha=0.03, **QUIET),
}
GRADUAL = ("gmp", "gmp_hard", "dpf")
AT_THE_END = ("gsm", "lc")
FOUND = ("str", "cs", "dst")


def wrapped(recipe, **kwargs):
    model = keras_bimp.wrap(dense_model(), rule=recipe.rule)
    optimizer = recipe.optimizer or keras.optimizers.SGD(0.1, momentum=0.9)
    return compile_model(model, optimizer, **kwargs)


def sparsity(model):
    return keras_bimp.sparsity(model).prunable


class Keep(SaveAfter):
    """Saves the model at the end of an epoch, and keeps its outputs."""

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if epoch + 1 == self.epochs:
            x, _ = data()
            self.outputs = ops.convert_to_numpy(self.model(x))


def sigmoid(x):
    return (1 + np.tanh(np.float64(x) / 2)) / 2


FINAL = {
    "str": lambda w, r: (
        np.sign(w) * np.maximum(abs(w) - sigmoid(array(r.s)), 0)
    ),
    "cs": lambda w, r: np.where(
        array(r.s) > 0, w * sigmoid(300 * array(r.s)) / sigmoid(0.02), 0
    ),
    "dst": lambda w, r: w * (abs(w) > ops.convert_to_numpy(r.threshold)),
}


def finals(model, method):
    """Computes the kernels that `strip` must return from stored values."""
    if method in FOUND:
        layer = masked(model)
        return [
            FINAL[method](array(kernel.variable), rule)
            for kernel, rule in zip(layer.kernels, layer.rules, strict=True)
        ]
    return [w * mask for w, mask in kernels_and_masks(model)]


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.parametrize("method", list(RECIPES))
def test_from_wrap_to_strip(method, tmp_path):
    x, _ = data()
    path = tmp_path / "model.keras"
    recipe = RECIPES[method]()
    model = wrapped(recipe)
    keep = Keep(4, path)
    history = fit(model, EPOCHS, [*recipe.callbacks, keep]).history
    found = history["sparsity"]
    if method in GRADUAL:
        goals = baselines.gradual_sparsities(EPOCHS, 2, 0.77)
        counts = [0, 0, *(round(s * TOTAL) for s in goals.values())]
        assert found == [n / TOTAL for n in np.repeat(counts[1:], 2)]
    elif method in AT_THE_END:
        assert found == [*[0.0] * (EPOCHS - 1), round(0.77 * TOTAL) / TOTAL]
    elif method == "dnw":
        assert found == [int(0.77 * TOTAL) / TOTAL] * EPOCHS
    else:
        assert 0.1 < found[-1] < 0.9
    assert sparsity(model) == found[-1]
    stored = [w for w, _ in kernels_and_masks(model)]
    if method == "gmp_hard":
        assert sum((w == 0).sum() for w in stored) == found[-1] * TOTAL
    else:
        assert all(w.all() for w in stored)
    progress = keras_bimp._src.model_record.progress_of(model)
    assert lines_with(str(progress), "6 of 6")
    # The model saved during training computes the same.
    again = keras.models.load_model(path)
    np.testing.assert_array_equal(ops.convert_to_numpy(again(x)), keep.outputs)
    # After `strip`, the plain model computes the same.
    expected = finals(model, method)
    outputs = ops.convert_to_numpy(model(x))
    plain = keras_bimp.strip(model)
    for layer in plain._flatten_layers():
        assert not type(layer).__module__.startswith("keras_bimp")
    kernels = [w for w in plain.get_weights() if w.ndim == 2]
    for kernel, value in zip(kernels, expected, strict=True):
        np.testing.assert_allclose(kernel, value, rtol=1e-5, atol=1e-7)
    assert sparsity(plain) == found[-1]
    if method != "cs":  # `strip` closes its nearly closed gates.
        np.testing.assert_allclose(
            ops.convert_to_numpy(plain(x)), outputs, rtol=1e-4, atol=1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpf", "gsm", "cs"])
def test_a_model_saved_in_mid_training_goes_on(method, tmp_path):
    recipe = RECIPES[method]()
    model = wrapped(recipe)
    save = SaveAfter(3, tmp_path / "model.keras")
    history = fit(model, EPOCHS, [*recipe.callbacks, save]).history
    again = keras.models.load_model(tmp_path / "model.keras")
    rest = fit(
        again, EPOCHS, RECIPES[method]().callbacks, initial_epoch=3
    ).history
    assert rest["sparsity"] == history["sparsity"][3:]
    np.testing.assert_allclose(rest["loss"], history["loss"][3:], rtol=1e-5)
    for one, other in zip(
        finals(again, method), finals(model, method), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.parametrize("method", ["gsm", "dpf", "cs"])
def test_in_mixed_precision(method):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        recipe = RECIPES[method]()
        model = wrapped(recipe)
    finally:
        keras.config.set_dtype_policy("float32")
    history = fit(model, EPOCHS, recipe.callbacks).history
    assert history["loss"][-1] < history["loss"][0]
    if method not in FOUND:
        assert sparsity(model) == round(0.77 * TOTAL) / TOTAL


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gsm", "dpf", "dst"])
def test_however_steps_are_compiled_they_do_the_same(method):
    ends = []
    for arguments in (
        {"jit_compile": True},
        {"jit_compile": False, "steps_per_execution": 2},
    ):
        recipe = RECIPES[method]()
        model = wrapped(recipe, **arguments)
        fit(model, EPOCHS, recipe.callbacks)
        ends.append(np.concatenate([k.ravel() for k in finals(model, method)]))
    np.testing.assert_allclose(*ends, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.every_backend
def test_a_layer_alone_is_masked():
    for method in ("gmp", "dpf", "cs", "lc"):
        recipe = RECIPES[method]()
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [
                keras.Input((6,)),
                keras_bimp.Masked(layers.Dense(8), rule=recipe.rule),
                layers.ReLU(),
                layers.Dense(3),
            ]
        )
        compile_model(model)
        history = fit(model, EPOCHS, recipe.callbacks).history
        if method not in FOUND:
            assert history["sparsity"][-1] == round(0.77 * 48) / 48
        plain = keras_bimp.strip(model)
        zeros = (array(plain.layers[0].kernel) == 0).mean()
        assert zeros == pytest.approx(history["sparsity"][-1])


def test_the_masks_of_two_layers_are_of_one_method():
    def model(*rules):
        return compile_model(
            keras.Sequential(
                [
                    keras.Input((6,)),
                    keras_bimp.Masked(layers.Dense(8), rule=rules[0]),
                    keras_bimp.Masked(layers.Dense(3), rule=rules[1]),
                ]
            )
        )

    recipe = RECIPES["gmp"]()
    both = model(recipe.rule, recipe.rule)
    history = fit(both, EPOCHS, recipe.callbacks).history
    assert history["sparsity"][-1] == round(0.77 * TOTAL) / TOTAL
    with pytest.raises(ValueError, match=r"rule=recipe\.rule"):
        fit(model(recipe.rule, None), EPOCHS, recipe.callbacks)
    for method in ("dpf", "dnw", "lc"):
        recipe = RECIPES[method]()
        with pytest.raises(ValueError, match=r"`keras_bimp\.wrap`.*2 `Masked`"):
            fit(model(recipe.rule, recipe.rule), EPOCHS, recipe.callbacks)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gmp", "dpf", "cs"])
def test_a_second_fit_is_a_training_of_its_own(method):
    recipe = RECIPES[method]()
    model = wrapped(recipe)
    first = fit(model, EPOCHS, recipe.callbacks).history
    second = fit(model, EPOCHS, recipe.callbacks).history
    assert np.isfinite(second["loss"]).all()
    if method == "cs":
        assert int(array(masked(model).rules[0].step)) == EPOCHS * STEPS
    elif method not in FOUND:
        assert second["sparsity"][-1] == first["sparsity"][-1]


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 2


@pytest.mark.parametrize("method", ["lc", "dnw"])
def test_a_training_that_stops_early_is_incomplete(method, capsys):
    recipe = RECIPES[method]()
    recipe.callbacks[0]._verbose = 1
    model = wrapped(recipe)
    fit(model, EPOCHS, [*recipe.callbacks, Stop()])
    told = keras_bimp.report(model, latency=False, verbose=0).state
    assert lines_with(told, "3 of 6")
    assert capsys.readouterr().out.count(told) == 1
    if method == "dnw":
        assert sparsity(model) == int(0.77 * TOTAL) / TOTAL


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("method", ["gmp", "lc"])
def test_the_best_weights_are_of_the_last_pruning(method, first):
    # The loss is lowest while the model is dense.
    recipe = RECIPES[method]()
    stopping = keras.callbacks.EarlyStopping(
        "sparsity", mode="min", patience=9, restore_best_weights=True
    )
    if first:
        stopping.monitor = "loss"
    model = wrapped(recipe)
    callbacks = [*recipe.callbacks, stopping]
    fit(model, EPOCHS, callbacks[::-1] if first else callbacks)
    assert sparsity(model) == round(0.77 * TOTAL) / TOTAL
