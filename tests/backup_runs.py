"""Runs that are killed and resumed."""

import keras
import numpy as np
import pytest
from helpers import array
from helpers import data
from helpers import wrapped
from keras import layers

import keras_bimp
from keras_bimp._src import slots
from keras_bimp._src.masking import state_variables
from keras_bimp.backup import EpochData

EPOCHS = 5


class KilledError(Exception):
    """Ends a `fit` like a SIGKILL: nothing is saved."""


class Kill(keras.callbacks.Callback):
    """Kills a `fit` at a moment: a hook, and its first arguments."""

    def __init__(self, hook, *moment):
        super().__init__()
        self.epoch = None
        self.hook, self.moment = hook, moment
        for name in ("on_epoch_end", "on_train_batch_end", "on_test_begin"):
            if name == hook:
                setattr(self, name, self.kill)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        if self.hook == "on_epoch_begin":
            self.kill(epoch)

    def kill(self, index=None, logs=None):
        now = (self.epoch,) if index is None else (self.epoch, index)
        if now[: len(self.moment)] == self.moment:
            raise KilledError


def random_model(optimizer=None, units=8, **kwargs):
    """Builds a model whose training draws random numbers."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(units, name="hidden"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.3),
            layers.Dense(3, name="classes"),
        ],
        name="model",
    )
    return wrapped(optimizer, model=model, **kwargs)


def epoch_data(**kwargs):
    return EpochData(*data(), batch_size=16, seed=5, **kwargs)


def train(folder, *others, model=None, batches=None, epochs=EPOCHS, **kwargs):
    """Trains to the end, or until killed, and returns model and `History`."""
    model = random_model() if model is None else model
    target = kwargs.pop("target", 0.8)
    arguments = {"dense_epochs": 2, "cycles": 2, "verbose": 0, **kwargs}
    ours = keras_bimp.callbacks(target, backup_dir=folder, **arguments)
    history = model.fit(
        epoch_data() if batches is None else batches,
        epochs=epochs,
        validation_data=data(32, seed=1),
        validation_batch_size=16,
        verbose=0,
        callbacks=[*ours, *others],
    )
    return model, history, ours[0]


def killed(folder, *others, **kwargs):
    with pytest.raises(KilledError):
        train(folder, *others, **kwargs)


def assert_same(one, other):
    (model, history, callback), (model_2, history_2, callback_2) = one, other
    for v, w in zip(
        state_variables(model) + slots.all_slots(model.optimizer),
        state_variables(model_2) + slots.all_slots(model_2.optimizer),
        strict=True,
    ):
        np.testing.assert_array_equal(array(v), array(w), err_msg=v.path)
    assert history.epoch == history_2.epoch
    np.testing.assert_equal(history.history, history_2.history)  # NaN, too.
    assert callback.prunings == callback_2.prunings


KILLS = [
    ("on_epoch_begin", 0),
    ("on_train_batch_end", 0, 1),
    ("on_epoch_end", 1),
    ("on_epoch_begin", 2),  # Just after the first pruning.
    ("on_train_batch_end", 3, 3),
    ("on_test_begin", 4),
    ("on_epoch_end", 4),
]
