"""Keras' own callbacks beside ours."""

import csv
import re
import warnings

import keras
import numpy as np
import pytest
from edge_cases import HOOKS
from edge_cases import Breaking
from edge_cases import WatchEveryHook
from edge_cases import assert_zeros
from edge_cases import beside
from edge_cases import fit_breaking
from edge_cases import ours
from edge_cases import said
from helpers import TOTAL
from helpers import array
from helpers import data
from helpers import fit
from helpers import kernels_and_masks
from helpers import wrapped

import keras_bimp
from keras_bimp._src.retraining import callback_checks

# Keras callbacks.

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
    with pytest.warns(UserWarning, match="`EarlyStopping`.*from_epoch=4"):
        model, weights, history = fit_beside([other], "after", losses)
    assert history.epoch == [0, 1, 2, 3, 4, 5]
    assert_same_weights(model, weights[4])
    assert_zeros(model, 54)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        # Phases of 2, 4 and 3 epochs, compared from each beginning on.
        ({"patience": 3}, r"start_from_epoch=6,.*patience=4 "),
        ({"patience": 0}, r"start_from_epoch=6,.*patience=4 "),
        ({"patience": 0, "start_from_epoch": 4}, "patience=2 "),
        ({"patience": 4}, None),
        ({"patience": 0, "start_from_epoch": 5}, None),
        ({"patience": 0, "start_from_epoch": 6}, None),
    ],
)
def test_an_early_stop_below_the_target_is_warned_of(arguments, told):
    others = [keras.callbacks.EarlyStopping("loss", **arguments)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback_checks.warn_of_early_stopping([2, 6], others)
    if told is None:
        assert not caught
    else:
        (found,) = caught
        assert re.search(told, str(found.message))


def test_gradual_pruning_warns_of_an_early_stop_too():
    recipe = keras_bimp.baselines.gmp(0.75, interval=2, hard=True, verbose=0)
    model = wrapped()
    other = keras.callbacks.EarlyStopping("loss", patience=1, min_delta=-9)
    with pytest.warns(UserWarning, match="`EarlyStopping` may end"):
        fit(model, 6, [*recipe.callbacks, other])


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
