"""The steps of gradual pruning, and learning rates that depend on it."""

import json

import keras
import numpy as np
import pytest
from helpers import GOLDEN
from helpers import TOTAL
from helpers import RecordingSGD
from helpers import compile_model
from helpers import dense_model
from helpers import fit
from helpers import masked
from helpers import recorded
from keras import ops

import keras_bimp
from keras_bimp import baselines
from keras_bimp.baselines import gradual_sparsities


def golden(name):
    return json.loads((GOLDEN / name).read_text())


@pytest.mark.parametrize("target", [0.9, 0.99])
def test_sparsities_are_those_of_the_reference(target):
    expected = golden("gmp_schedule.json")[f"T200_interval10_goal{target}"]
    found = gradual_sparsities(200, 10, target)
    assert len(found) == expected["n_pruning_steps"]
    assert list(map(str, found)) == list(expected["epochs"])
    np.testing.assert_allclose(
        list(found.values()), list(expected["epochs"].values()), atol=1e-12
    )
    assert found[190] == target


def test_steps_are_those_of_tfmot():
    for name, rows in golden("tfmot_schedules.json").items():
        kind, *numbers = name.split("/")
        assert kind == "PolynomialDecay"
        initial, final, begin, end, power, frequency = map(float, numbers)
        schedule = keras_bimp.sparsity_schedules.PolynomialDecay(
            initial, final, int(begin), int(end), power, int(frequency)
        )
        for step, due, share in rows:
            found_due, found = schedule(step)
            assert found_due is due
            assert found == pytest.approx(share, abs=2e-7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 0.5, 0, 10), "initial_sparsity"),
        ((0.0, 1.5, 0, 10), "final_sparsity"),
        ((0.0, 0.5, -1, 10), "begin_step"),
        ((0.0, 0.5, 10, 10), "end_step"),
        ((0.0, 0.5, 0, 10, 0), "power"),
        ((0.0, 0.5, 0, 10, 3, 0), "frequency"),
    ],
)
def test_bad_schedules_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"`{message}`"):
        keras_bimp.sparsity_schedules.PolynomialDecay(*arguments)


class LikeTfmots:
    """Like tfmot's `ConstantSparsity`, which returns tensors."""

    frequency = 3

    def __call__(self, step):
        due = 4 <= step <= 13 and (step - 4) % self.frequency == 0
        return ops.convert_to_tensor(due), ops.convert_to_tensor(step / 20)


class Watch(keras.callbacks.Callback):
    """Counts the pruned weights in each step."""

    def __init__(self):
        super().__init__()
        self.counts = []

    def on_train_batch_begin(self, batch, logs=None):
        zeros = [
            ops.sum(ops.cast(~ops.convert_to_numpy(m.value), "int32"))
            for m in masked(self.model).masks
        ]
        self.counts.append(int(sum(zeros)))


def wrapped(recipe, optimizer=None, **kwargs):
    if optimizer is None:
        optimizer = recipe.optimizer or keras.optimizers.SGD(0.1, momentum=0.9)
    model = keras_bimp.wrap(dense_model(), rule=recipe.rule)
    return compile_model(model, optimizer, **kwargs)


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.parametrize("hard", [False, True])
def test_a_schedule_of_steps_is_followed_exactly(hard):
    recipe = baselines.gmp(0.65, schedule=LikeTfmots(), hard=hard, verbose=0)
    watch = Watch()
    model = wrapped(recipe)
    fit(model, 2, [*recipe.callbacks, watch])
    # Four steps per epoch; a second `fit` continues the count.
    fit(model, 2, [*recipe.callbacks, watch])
    moments = {s: round(s / 20 * TOTAL) for s in (4, 7, 10, 13)}
    expected = [0]
    for step in range(16):
        expected.append(moments.get(step, expected[-1]))
    assert watch.counts == expected[1:]


def test_steps_that_run_together_are_refused_with_a_schedule_of_steps():
    recipe = baselines.gmp(0.65, schedule=LikeTfmots(), verbose=0)
    model = wrapped(recipe, steps_per_execution=2)
    with pytest.raises(
        ValueError, match=r"`steps_per_execution`.*steps_per_execution=2"
    ):
        fit(model, 2, recipe.callbacks)


RATES = {
    "stepped": keras.optimizers.schedules.PiecewiseConstantDecay(
        [8, 16], [0.1, 0.05, 0.01]
    ),
    "linear": keras_bimp.schedules.Linear(0.1, steps=24),
    "cyclic": baselines.Cyclic(0.1, steps=24, interval=8),
    "warm": baselines.Cyclic(0.1, steps=24, interval=8, warmup=0.2),
}


@pytest.mark.parametrize("name", list(RATES))
def test_learning_rates_are_the_optimizers(name):
    recipe = baselines.gmp(0.75, interval=2, verbose=0)
    model = wrapped(recipe, RecordingSGD(RATES[name], momentum=0.9))
    watch = Watch()
    fit(model, 6, [*recipe.callbacks, watch])
    rates = recorded(model.optimizer)[:24]
    expected = [float(RATES[name](i)) for i in range(24)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    prunings = np.flatnonzero(np.diff(watch.counts)) + 1
    np.testing.assert_array_equal(prunings, [8, 16])
    if name in ("cyclic", "warm"):
        restarts = np.flatnonzero(np.diff(rates) > 0.05) + 1
        np.testing.assert_array_equal(restarts, prunings)
        np.testing.assert_allclose(rates[prunings], 0.1, rtol=1e-6)


def test_cyclic_falls_to_zero_before_each_restart():
    found = baselines.Cyclic(1.0, steps=8, interval=3).values()
    # The last line goes from the last pruning to the end.
    lines = [1 - np.arange(3) / 3, 1 - np.arange(5) / 5]
    np.testing.assert_allclose(found, np.concatenate(lines))
    # The same number of prunings as `gmp`; without any it is one line.
    alone = baselines.Cyclic(1.0, steps=5, interval=3).values()
    np.testing.assert_allclose(alone, 1 - np.arange(5) / 5)
    config = baselines.Cyclic(1.0, 8, 3, 0.25).get_config()
    again = baselines.Cyclic.from_config(config)
    assert again.get_config() == config
    with pytest.raises(ValueError, match=r"`interval`.*interval=0"):
        baselines.Cyclic(1.0, 8, 0)
