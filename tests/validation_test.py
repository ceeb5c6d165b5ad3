"""Validation metrics in the logs, before and after pruning."""

import csv

import keras
import numpy as np
import pytest
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import wrapped

import keras_bimp


class Evaluate(keras.callbacks.Callback):
    """Calls `evaluate` after each epoch, and when each begins."""

    def __init__(self, validation):
        super().__init__()
        self.validation = validation
        self.ends, self.begins = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.begins.append(self._metrics())

    def on_epoch_end(self, epoch, logs=None):
        self.ends.append(self._metrics())

    def _metrics(self):
        found = self.model.evaluate(
            *self.validation, verbose=0, return_dict=True
        )
        self.model.reset_metrics()
        return found


def callbacks(**kwargs):
    return keras_bimp.callbacks(
        0.75, **{"dense_epochs": 2, "cycles": 2, "verbose": 0, **kwargs}
    )


@pytest.mark.every_backend
def test_logs_tell_the_metrics_before_and_after(tmp_path):
    validation = data(32, seed=0)
    watch = Evaluate(validation)
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    model = wrapped()
    history = fit(
        model, 6, [*callbacks(), watch, log], validation_data=validation
    ).history
    for name in ("loss", "accuracy"):
        before = history[f"val_{name}_before_pruning"]
        after = history[f"val_{name}_after_pruning"]
        assert np.isnan([before[:2], after[:2]]).all()
        ends = [found[name] for found in watch.ends]
        begins = [found[name] for found in watch.begins]
        assert before[2:] == pytest.approx([ends[1]] * 2 + [ends[3]] * 2)
        # Ours comes first, so pruning is done when `watch` is called.
        assert after[2:] == pytest.approx([begins[2]] * 2 + [begins[4]] * 2)
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[5]["val_loss_after_pruning"]) == pytest.approx(
        history["val_loss_after_pruning"][5]
    )


def test_a_pruning_before_the_first_epoch_is_measured_too():
    validation = data(32, seed=0)
    model = wrapped()
    fit(model, 1)
    dense = model.evaluate(*validation, verbose=0, return_dict=True)
    history = fit(
        model,
        2,
        callbacks(dense_epochs=0, cycles=1, retraining="llr"),
        validation_data=validation,
        validation_freq=2,
    ).history
    assert history["val_loss_before_pruning"] == pytest.approx(
        [dense["loss"]] * 2
    )
    assert (
        history["val_loss_after_pruning"] != history["val_loss_before_pruning"]
    )


def test_what_can_be_gone_through_only_once_is_left_alone():
    drawn = []

    def batches():
        while True:
            drawn.append(1)
            yield data(16)

    history = fit(
        wrapped(),
        6,
        callbacks(),
        validation_data=batches(),
        validation_steps=2,
    ).history
    assert "val_loss" in history
    assert not any("pruning" in name for name in history)
    # Keras prefetches a few once; pruning draws none.
    assert len(drawn) <= 2 * 6 + 4


def test_without_validation_data_there_are_no_such_logs():
    history = fit(wrapped(), 6, callbacks()).history
    assert not any("pruning" in name for name in history)
    assert history["d1"][:2] == [0, 0]


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_the_factors_of_the_discount_are_told():
    ours = callbacks(retraining="allr")
    history = fit(wrapped(), 8, ours).history
    (d1, d2), pruning = (
        (history[name][-1] for name in ("d1", "d2")),
        ours[0].prunings[-1],
    )
    assert d1 == pytest.approx(
        pruning.norm_drop / np.sqrt(pruning.pruned_fraction)
    )
    assert d2 == 1.0  # Cycles of 3 epochs, after 2.
    assert history["discount"][-1] == pytest.approx(min(1, max(d1, d2)))


def test_columns_are_there_where_the_first_epochs_do_not_validate(tmp_path):
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = fit(
        wrapped(),
        7,
        [*callbacks(dense_epochs=3), log],
        validation_data=data(32),
        validation_freq=2,
    ).history
    assert len(history["val_loss"]) == 3
    known = np.isfinite(history["val_loss_before_pruning"])
    assert known.tolist() == [False] * 3 + [True] * 4
    with (tmp_path / "log.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["val_loss_after_pruning"]) == pytest.approx(
        history["val_loss_after_pruning"][-1]
    )


class Adds(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["val_other"] = 1.0


def test_metrics_of_several_numbers_and_of_others_are_left_out():
    model = keras_bimp.wrap(dense_model())
    model.compile(
        "sgd", "categorical_crossentropy", metrics=[keras.metrics.F1Score()]
    )
    x, y = data()
    y = keras.utils.to_categorical(y)
    history = model.fit(
        x,
        y,
        epochs=6,
        verbose=0,
        validation_data=(x, y),
        callbacks=[Adds(), *callbacks()],
    ).history
    told = {name for name in history if name.endswith("_pruning")}
    assert told == {"val_loss_before_pruning", "val_loss_after_pruning"}
