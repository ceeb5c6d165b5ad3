"""Training is complete only if it reached its target."""

import keras
import numpy as np
import pytest
from helpers import TOTAL
from helpers import compile_model
from helpers import dense_model
from helpers import fit
from helpers import wrapped
from keras import layers

import keras_bimp
from keras_bimp import baselines
from keras_bimp._src.model_record import progress_of
from keras_bimp.sparsity_schedules import PolynomialDecay

pytestmark = [pytest.mark.every_backend, pytest.mark.slow]

EPOCHS = 3  # Of four steps each.


def gradual(schedule, target=0.75, hard=True, **kwargs):
    recipe = baselines.gmp(target, hard=hard, schedule=schedule, **kwargs)
    model = keras_bimp.wrap(dense_model(), rule=recipe.rule)
    compile_model(model)
    fit(model, EPOCHS, recipe.callbacks)
    return model


def export_of(model, folder):
    # The check comes before anything is written, on each backend.
    keras_bimp.export(model, folder / "1")


SHORT = {
    "outlasts the training": (PolynomialDecay(0.0, 0.75, 0, 100, 3, 2), {}),
    "begins too late": (PolynomialDecay(0.0, 0.75, 50, 60, 3, 2), {}),
    "does not prune at its end": (PolynomialDecay(0.0, 0.75, 0, 9, 1, 4), {}),
    "ends lower": (PolynomialDecay(0.0, 0.5, 0, 8, 3, 2), {}),
    "of progress, ends lower": (
        lambda progress, target: 0.5 * progress * target,
        {"interval": 1},
    ),
}


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("name", SHORT)
def test_a_schedule_that_falls_short(name, hard, capsys, tmp_path):
    schedule, kwargs = SHORT[name]
    model = gradual(schedule, hard=hard, **kwargs)
    pruned = keras_bimp.strip(model)
    reached = keras_bimp.sparsity(pruned).prunable
    assert reached < 0.74
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith(
        f"Incomplete: 3 of 3 epochs are done, sparsity {reached:.2%} of 75.00%"
    )
    report = keras_bimp.report(pruned, latency=False, verbose=0)
    assert report.status == "incomplete"
    with pytest.raises(ValueError, match=r"incomplete.*check_sparsity=False"):
        export_of(pruned, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_a_schedule_that_arrives(hard, allocation, capsys):
    schedule = PolynomialDecay(0.0, 0.75, 0, 8, 3, 2)
    model = gradual(schedule, hard=hard, allocation=allocation)
    assert progress_of(model).complete
    assert "Incomplete" not in capsys.readouterr().out


def test_an_allocation_that_rounds_is_no_shortfall():
    # 8 of 12 and 2 of 3 weights are pruned: 10 of 15, not 0.7 * 15 = 10.5.
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3), layers.Dense(1)]
    )
    recipe = baselines.gmp(
        0.7, hard=True, interval=1, allocation="uniform", verbose=0
    )
    model = keras_bimp.wrap(inner, rule=recipe.rule)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    model.fit(
        np.ones((8, 4)),
        np.ones((8, 1)),
        epochs=4,
        verbose=0,
        callbacks=recipe.callbacks,
    )
    assert progress_of(model).pruned == 10
    assert progress_of(model).complete


@pytest.mark.parametrize(
    "make",
    [
        lambda: baselines.dpf(0.75, interval=1, verbose=0),
        lambda: baselines.dnw(0.75, verbose=0),
        lambda: baselines.lc(0.75, verbose=0),
        lambda: baselines.str(verbose=0),
    ],
)
def test_methods_that_choose_otherwise_are_complete(make):
    recipe = make()
    model = keras_bimp.wrap(dense_model(), rule=recipe.rule)
    compile_model(model, recipe.optimizer)
    fit(model, EPOCHS, recipe.callbacks)
    assert progress_of(model).complete


def test_filters_of_different_sizes_are_complete():
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3),
            layers.Conv2D(8, 3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    model = compile_model(keras_bimp.wrap(inner))
    x = np.random.default_rng(0).standard_normal((16, 8, 8, 1))
    model.fit(
        x,
        np.zeros(16),
        epochs=2,
        verbose=0,
        callbacks=keras_bimp.callbacks(
            1 / 3, dense_epochs=1, granularity="filter", verbose=0
        ),
    )
    # Four of twelve filters of 9 or 36 weights: never a third of all weights.
    progress = progress_of(model)
    assert progress.pruned != round(progress.weights / 3)
    assert progress.complete


def test_a_run_that_stops_before_its_last_pruning_is_not_complete():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    model = wrapped()
    run = keras_bimp.callbacks(0.75, dense_epochs=1, cycles=2, verbose=0)
    fit(model, 3, [*run, Stop()])
    progress = progress_of(model)
    assert not progress.reached
    assert not progress.complete


def test_what_fell_short_can_be_pruned_by_hand():
    model = gradual(SHORT["outlasts the training"][0])
    assert not progress_of(model).complete
    keras_bimp.prune(model, 0.75)
    assert progress_of(model).complete
    assert progress_of(keras_bimp.strip(model)).pruned == round(0.75 * TOTAL)
