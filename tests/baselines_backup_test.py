"""The stable methods resume after a kill, with bit-identical results."""

import keras
import numpy as np
import pytest
from baselines_test import RECIPES
from baselines_test import wrapped
from helpers import array
from helpers import data
from helpers import masked

import keras_bimp
from keras_bimp import baselines
from keras_bimp._src import slots
from keras_bimp.backup import EpochData

EPOCHS = 6


class KilledError(Exception):
    """Ends a `fit` like a SIGKILL: nothing is saved."""


class Kill(keras.callbacks.Callback):
    """Kills a `fit` in an epoch: after one of its batches, or at its end."""

    def __init__(self, epoch, batch=None):
        super().__init__()
        self.now, self.epoch, self.batch = None, epoch, batch

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, self.batch):
            raise KilledError

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch and self.batch is None:
            raise KilledError


def train(make, folder, *others, save_freq=1):
    recipe = make()
    model = wrapped(recipe)
    history = model.fit(
        EpochData(*data(), batch_size=16, seed=5),
        epochs=EPOCHS,
        verbose=0,
        callbacks=[
            *recipe.callbacks,
            keras_bimp.Backup(folder, save_freq, verbose=0),
            *others,
        ],
    )
    return model, history


def check(make, folder, *moments):
    model, history = train(make, folder / "undisturbed")
    for moment in moments:
        with pytest.raises(KilledError):
            train(make, folder / "killed", Kill(*moment))
    again, history_again = train(make, folder / "killed")
    for one, other in zip(
        model.variables + slots.all_slots(model.optimizer),
        again.variables + slots.all_slots(again.optimizer),
        strict=True,
    ):
        np.testing.assert_array_equal(array(one), array(other), one.path)
    assert history.epoch == history_again.epoch
    assert history.history == history_again.history
    progress = keras_bimp._src.model_record.progress_of
    assert progress(model) == progress(again)


def by_step():
    schedule = keras_bimp.sparsity_schedules.PolynomialDecay(
        0.1, 0.7, 3, 21, frequency=3
    )
    return baselines.gmp(0.7, schedule=schedule, verbose=0)


@pytest.mark.slow
@pytest.mark.every_backend
@pytest.mark.parametrize("method", ["dpf", "cs"])
def test_it_goes_on_to_the_same_bits(method, tmp_path):
    check(RECIPES[method], tmp_path, (1,), (3, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["gmp_hard", "by step", "dnw", "gsm", "str", "dst"]
)
def test_others_go_on_to_the_same_bits(method, tmp_path):
    check(RECIPES.get(method, by_step), tmp_path, (3, 2))


def test_steps_before_a_backup_are_not_asked_for_again(tmp_path):
    asked = []

    class Schedule:
        frequency = 1

        def __call__(self, step):
            asked.append(step)
            return step % 5 == 3, 0.5

    def make():
        return baselines.gmp(0.5, schedule=Schedule(), verbose=0)

    with pytest.raises(KilledError):
        train(make, tmp_path, Kill(3, 2))
    train(make, tmp_path)
    assert asked == list(range(24))


def test_the_state_of_another_run_is_refused(tmp_path):
    def other():
        return baselines.gmp(0.7, interval=3, verbose=0)

    with pytest.raises(KilledError):
        train(RECIPES["gmp"], tmp_path, Kill(3))
    with pytest.raises(ValueError, match=r"target_sparsity.*0\.77.*0\.7\b"):
        train(other, tmp_path)
    recipe = RECIPES["gmp"]()
    model = wrapped(recipe)
    with pytest.raises(ValueError, match=r"`Backup`.*`keras_bimp\.callbacks`"):
        model.fit(
            *data(),
            verbose=0,
            epochs=EPOCHS,
            callbacks=[keras_bimp.Backup(tmp_path / "2"), *recipe.callbacks],
        )


def test_a_broken_training_is_stopped(tmp_path):
    class Break(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 5:
                kernel = masked(self.model).kernels[0].variable
                kernel.assign(np.full(kernel.shape, np.nan))

    with pytest.warns(RuntimeWarning, match="loss.* 6 .*nan"):
        model, _ = train(RECIPES["lc"], tmp_path, Break(), save_freq="epoch")
    assert all(array(mask).all() for mask in masked(model).masks)
