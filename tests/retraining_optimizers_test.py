"""Pruned weights and the slots of optimizers."""

import jobs
import keras
import numpy as np
import pytest
from helpers import TOTAL
from helpers import array
from helpers import compile_model
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import kernels_and_masks
from helpers import wrapped
from helpers import zeros
from retraining_runs import Watch

import keras_bimp

OPTIMIZERS = {
    "SGD": ({"momentum": 0.9, "weight_decay": 0.1}, {}),
    "SGD EMA": ({"use_ema": True, "ema_overwrite_frequency": 3}, {}),
    "RMSprop": ({"momentum": 0.9, "centered": True}, {}),
    "Adam": ({"amsgrad": True}, {}),
    "AdamW": ({"gradient_accumulation_steps": 2}, {}),
    "Adadelta": ({}, {}),
    # Its "velocity" is not a slot, but recomputed in each step.
    "Adafactor": ({"epsilon_1": 1e-15}, {"velocity": None}),
    "Adagrad": ({}, {"accumulator": 0.1}),
    "Adamax": ({}, {}),
    "Ftrl": ({"initial_accumulator_value": 0.2}, {"accumulator": 0.2}),
    "Lamb": ({"weight_decay": 0.1}, {}),
    "Lion": ({"weight_decay": 0.1}, {}),
    "Nadam": ({}, {}),
    "ScheduleFreeAdamW": ({"use_ema": True}, {}),
}


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.parametrize(
    "name",
    jobs.first_and_slow(OPTIMIZERS, ("SGD", "Adam")),
)
def test_pruned_entries_stay_zero_with_every_optimizer(name):
    arguments, starts = OPTIMIZERS[name]
    optimizer = getattr(keras.optimizers, name.split()[0])(0.01, **arguments)
    model = dense_model(kernel_regularizer="l2")
    model = wrapped(optimizer, model)
    # Two epochs fill the slots; then a pruning and ten steps more.
    fit(model, 2)
    watch = Watch(starts)
    ours = keras_bimp.callbacks(
        0.7, dense_epochs=1, cycles=2, retraining="llr", verbose=0
    )
    fit(model, 5, [*ours, watch])
    assert len(watch.logs) == 5
    assert zeros(model) == round(0.7 * TOTAL)
    for kernel, mask in kernels_and_masks(model):
        assert (kernel[mask] != 0).all()


def test_every_optimizer_of_keras_was_looked_at():
    known = {name.split()[0] for name in OPTIMIZERS}
    known |= {"Muon", "MultiOptimizer", "LossScaleOptimizer", "Optimizer"}
    there = {
        name
        for name, value in vars(keras.optimizers).items()
        if isinstance(value, type)
        and issubclass(value, keras.optimizers.Optimizer)
    }
    assert there <= known


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.parametrize("scaled", jobs.first_and_slow([False, True], [True]))
def test_an_optimizer_that_mixes_entries_is_held(scaled):
    optimizer = keras.optimizers.Muon(0.01)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model = dense_model(kernel_constraint="max_norm")
    constraints = [v.constraint for v in model.trainable_variables]
    model = wrapped(optimizer, model)
    fit(model, 1)
    watch = Watch()
    ours = keras_bimp.callbacks(0.7, dense_epochs=1, cycles=2, verbose=0)
    fit(model, 4, [*ours, watch])
    # The same after pruning manually, and without callbacks.
    keras_bimp.prune(model, 0.8)
    fit(model, 2, [watch])
    assert len(watch.logs) == 6
    assert zeros(model) == round(0.8 * TOTAL)
    stripped = keras_bimp.strip(model)
    assert [v.constraint for v in stripped.trainable_variables] == constraints


@pytest.mark.every_backend
def test_what_was_pruned_elsewhere_is_held_too(tmp_path):
    model = compile_model(dense_model(), keras.optimizers.Muon(0.01))
    kernel = model.layers[0].kernel
    kernel.assign(np.where(np.arange(48).reshape(6, 8) < 20, 0, array(kernel)))
    model = keras_bimp.wrap(model, initial_masks="nonzero")
    fit(model, 1, [Watch()])
    assert zeros(model) == 20
    keras_bimp.prune(model, 0.5)
    model.save_weights(tmp_path / "half.weights.h5")
    model.save(tmp_path / "half.keras")
    again = keras.models.load_model(tmp_path / "half.keras")
    fit(again, 1, [Watch()])
    assert zeros(again) == 36
    # Loaded masks take effect.
    keras_bimp.prune(model, 0.8)
    fit(model, 1)
    model.load_weights(tmp_path / "half.weights.h5")
    fit(model, 1, [Watch()])
    assert zeros(model) == 36


def test_averages_of_an_optimizer_that_mixes_entries_are_refused():
    model = wrapped(keras.optimizers.Muon(0.01, use_ema=True))
    fit(model, 1)
    with pytest.raises(ValueError, match=r"`use_ema`.*Muon"):
        keras_bimp.prune(model, 0.5)
    with pytest.raises(ValueError, match=r"`use_ema`.*Muon"):
        fit(model, 2, keras_bimp.callbacks(0.5, dense_epochs=1, verbose=0))
    assert zeros(model) == 0


def test_prune_refuses_what_is_no_optimizer():
    with pytest.raises(TypeError, match=r"`optimizer`.*'sgd'"):
        keras_bimp.prune(wrapped(), 0.5, optimizer="sgd")


def test_a_first_pruning_by_hand_reaches_a_step_that_is_compiled():
    model = wrapped(keras.optimizers.Muon(0.01))
    fit(model, 1)
    # After one that is refused, the next one must still recompile.
    constraints = [v.constraint for v in model.trainable_variables]
    with pytest.raises(ValueError, match="on_collapse"):
        keras_bimp.prune(model, 0.95)
    assert [v.constraint for v in model.trainable_variables] == constraints
    keras_bimp.prune(model, 0.5)
    fit(model, 1, [Watch()])
    assert zeros(model) == 36


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_a_penalty_on_all_weights_together_sees_what_is_left():
    penalty = keras.regularizers.OrthogonalRegularizer(0.1)
    model = dense_model(kernel_regularizer=penalty)
    model = wrapped(model=model)
    watch = Watch()
    ours = keras_bimp.callbacks(0.7, dense_epochs=1, cycles=2, verbose=0)
    fit(model, 4, [*ours, watch])
    x, y = data()
    logits = model.predict(x, verbose=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = float(loss(y, logits)) + sum(
        float(penalty(kernel)) for kernel, _ in kernels_and_masks(model)
    )
    assert model.evaluate(x, y, verbose=0)[0] == pytest.approx(expected, 1e-5)
    stripped = keras_bimp.strip(model)
    assert stripped.layers[0].kernel.regularizer is penalty


def test_an_optimizer_that_would_divide_by_zero_is_refused():
    # If a row and a column of a gradient are 0, as for pruned units, Adafactor
    # squares its `epsilon_1` of 1e-30, which is 0 in float32.
    model = wrapped(keras.optimizers.Adafactor(0.01))
    with pytest.raises(ValueError, match="epsilon_1=1e-15"):
        fit(model, 2, keras_bimp.callbacks(0.5, dense_epochs=1, verbose=0))


def test_prune_reaches_the_slots_of_a_multi_optimizer():
    optimizer = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(keras.optimizers.Adam(0.01))
    )
    model = wrapped(optimizer)
    fit(model, 1)
    keras_bimp.prune(model, 0.5)
    watch = Watch()
    fit(model, 1, [watch])
    assert watch.slots == 2
    with pytest.raises(ValueError, match="MultiOptimizer"):
        fit(model, 2, keras_bimp.callbacks(0.6, dense_epochs=1))
