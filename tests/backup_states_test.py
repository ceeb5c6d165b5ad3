"""`Backup`: what optimizers, callbacks and models remember."""

import functools
import warnings

import keras
import numpy as np
import pytest
from backup_runs import KILLS
from backup_runs import Kill
from backup_runs import KilledError
from backup_runs import assert_same
from backup_runs import killed
from backup_runs import random_model
from backup_runs import train
from helpers import array
from helpers import compile_model
from helpers import data
from helpers import fit
from helpers import lines_with
from helpers import skip_unless_steps_run_together
from helpers import wrapped
from keras import layers

import keras_bimp
from keras_bimp._src import failures
from keras_bimp._src.backup import Generations
from keras_bimp._src.backup import generations
from keras_bimp.backup import EpochData


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["on_epoch_end", "on_train_batch_end"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"retraining": "wr", "dense_epochs": 3},
        {
            "retraining": "accallr",
            "data": data(),
        },
    ],
)
def test_ways_to_retrain_go_on(arguments, hook, tmp_path):
    expected = train(tmp_path / "undisturbed", **arguments)
    moment = (3, 2) if hook == "on_train_batch_end" else (3,)
    killed(tmp_path / "killed", Kill(hook, *moment), save_freq=1, **arguments)
    again = train(tmp_path / "killed", save_freq=1, **arguments)
    assert_same(again, expected)


def adam_with_everything(policy):
    # Keras mixes float32 and bfloat16 there.
    steps = 3 if policy == "float32" else None
    return keras.optimizers.LossScaleOptimizer(
        keras.optimizers.AdamW(
            0.01, use_ema=True, gradient_accumulation_steps=steps
        )
    )


@pytest.mark.slow
@pytest.mark.every_backend
@pytest.mark.parametrize("policy", ["float32", "bfloat16"])
def test_all_that_optimizers_remember_goes_on(policy, tmp_path):
    keras.config.set_dtype_policy(policy)
    try:
        # Built right before training, since it seeds torch's generator.
        model = random_model(adam_with_everything(policy))
        expected = train(tmp_path / "undisturbed", model=model)
        kill = Kill("on_train_batch_end", 3, 1)
        folder = tmp_path / "killed"
        model = random_model(adam_with_everything(policy))
        killed(folder, kill, model=model, save_freq=1)
        model = random_model(adam_with_everything(policy))
        assert_same(train(folder, model=model, save_freq=1), expected)
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.slow
@pytest.mark.every_backend
def test_steps_that_run_together_go_on(tmp_path):
    skip_unless_steps_run_together()
    expected = train(
        tmp_path / "undisturbed", model=random_model(steps_per_execution=2)
    )
    for save_freq in (1, 3):
        folder = tmp_path / str(save_freq)
        killed(
            folder,
            Kill("on_train_batch_end", 3, 3),
            model=random_model(steps_per_execution=2),
            save_freq=save_freq,
        )
        state = Generations(folder).read()
        assert (state["epoch"], state["batch"]) == (3, 2 * (save_freq == 1))
        model = random_model(steps_per_execution=2)
        assert_same(train(folder, model=model), expected)


class Remembering(keras.callbacks.Callback):
    """A user's callback."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_train_begin(self, logs=None):
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(epoch)

    def get_state(self):
        return {"epochs": self.epochs}

    def set_state(self, state):
        self.epochs = state["epochs"]


@pytest.mark.slow
@pytest.mark.parametrize("moment", [("on_epoch_end", 3), KILLS[4]])
def test_other_callbacks_go_on(moment, tmp_path):
    def others():
        return [
            keras.callbacks.EarlyStopping(
                monitor="loss",
                patience=50,
                restore_best_weights=True,
            ),
            keras.callbacks.ModelCheckpoint(
                tmp_path / "best.keras", monitor="loss", save_best_only=True
            ),
            keras_bimp.RecordLearningRate(),
            Remembering(),
        ]

    expected = others()
    whole = train(tmp_path / "undisturbed", *expected)
    killed(tmp_path / "killed", *others(), Kill(*moment), save_freq=2)
    found = others()
    assert_same(train(tmp_path / "killed", *found, save_freq=2), whole)
    for name in ("wait", "best", "best_epoch"):
        assert getattr(found[0], name) == getattr(expected[0], name)
    for one, other in zip(
        found[0].best_weights, expected[0].best_weights, strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert found[1].best == expected[1].best
    np.testing.assert_array_equal(found[2].values(), expected[2].values())
    assert len(found[2].values()) == 20
    assert found[3].epochs == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_early_stopping_is_resumable_and_says_what_was_reached(
    tmp_path, capsys
):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 2

    for folder in (tmp_path, None):
        train(folder, Stop(), verbose=1)
        said = capsys.readouterr().out
        assert len(lines_with(said, "3", "5", "55.56%", "80.00%")) == 1
    _, history, callback = train(tmp_path)
    assert history.epoch == [0, 1, 2, 3, 4]
    assert history.history["sparsity"][-1] == round(0.8 * 72) / 72
    assert len(callback.prunings) == 2


@pytest.mark.slow
def test_a_broken_training_stops_and_keeps_the_last_good_state(tmp_path):
    class Break(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                bias = self.model.trainable_variables[1]
                bias.assign(np.full(bias.shape, np.nan))

    folder = tmp_path / "backup"
    with pytest.warns(RuntimeWarning, match="loss.* 4 .*nan"):
        model, history, _ = train(folder, Break())
    assert history.epoch == [0, 1, 2, 3]
    for path in Generations(folder).paths():
        training = generations.read_file(path)["training"]
        assert all(np.isfinite(x).all() for x in training["variables"])
    plain = keras_bimp.strip(model)
    with pytest.raises(ValueError, match=r"`model`.*loss.* 4 .*nan"):
        keras_bimp.export(plain, tmp_path / "served" / "1")
    assert not (tmp_path / "served").exists()
    with pytest.warns(UserWarning, match="loss.* 4 .*nan"):
        again, history, _ = train(folder)
    assert history.epoch == [0, 1, 2, 3, 4]
    # It is deleted once there is a good state.
    assert not (folder / "failure.json").exists()
    keras_bimp.export(keras_bimp.strip(again), tmp_path / "served" / "1")


@pytest.mark.slow
def test_types_of_other_callbacks_come_back(tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    try:
        stopping = functools.partial(
            keras.callbacks.EarlyStopping,
            "loss",
            patience=50,
            restore_best_weights=True,
        )
        model, *_ = train(tmp_path / "undisturbed", stopping())
        folder = tmp_path / "killed"
        killed(folder, stopping(), Kill("on_epoch_end", 4))
        again, *_ = train(folder, stopping())
    finally:
        keras.config.set_dtype_policy("float32")
    for one, other in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(array(one), array(other))


class OwnStep(keras.Model):
    """A model whose train step does not take symbolic tensors."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)
        self.seen = keras.metrics.Mean(name="seen")

    def call(self, x):
        return self.dense(x["x"])

    def train_step(self, batch):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(self(batch)))
        self.optimizer.apply(
            tape.gradient(loss, self.trainable_variables),
            self.trainable_variables,
        )
        self.seen.update_state(loss)
        return {"seen": self.seen.result(), "loss": loss}


@pytest.mark.slow
def test_a_train_step_of_ones_own_goes_on(tmp_path):
    def run(folder, *others):
        keras.utils.set_random_seed(0)
        model = OwnStep()
        batches = EpochData({"x": data()[0]}, batch_size=16)
        model(batches[0][0])
        model.compile(keras.optimizers.SGD(0.1), loss="mse")
        backup = keras_bimp.Backup(folder, save_freq=1, verbose=0)
        keras_bimp.fit(
            model,
            EpochData({"x": data()[0]}, batch_size=16, transform=first),
            epochs=3,
            verbose=0,
            callbacks=[backup, *others],
        )
        return model

    def first(batch, rng):
        return batch[0]

    expected = run(tmp_path / "undisturbed")
    with pytest.raises(KilledError):
        run(tmp_path / "killed", Kill("on_train_batch_end", 1, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = run(tmp_path / "killed")
    for one, other in zip(again.variables, expected.variables, strict=True):
        np.testing.assert_array_equal(array(one), array(other))


@pytest.mark.slow
def test_a_constant_may_be_infinite(tmp_path):
    class Masking(layers.Layer):
        def build(self, shape):
            self.offset = self.add_weight(
                shape=(), initializer="zeros", trainable=False
            )
            self.offset.assign(-np.inf)

        def call(self, x):
            return keras.ops.maximum(x, self.offset)

    inside = keras.Sequential([keras.Input((6,)), Masking(), layers.Dense(3)])
    model = wrapped(model=inside)
    history = fit(
        model,
        3,
        keras_bimp.callbacks(
            0.5, dense_epochs=1, verbose=0, backup_dir=tmp_path / "backup"
        ),
    )
    assert history.epoch == [0, 1, 2]
    keras_bimp.export(keras_bimp.strip(model), tmp_path / "1")


@pytest.mark.slow
def test_a_model_that_was_trained_again_is_exported(tmp_path):
    model = random_model()
    failures.mark_failed(model, "it broke")
    with pytest.raises(ValueError, match="it broke"):
        keras_bimp.export(keras_bimp.strip(model), tmp_path / "1")
    plain = compile_model(keras_bimp.strip(model))
    fit(plain, 1)
    keras_bimp.export(plain, tmp_path / "1")


@pytest.mark.slow
def test_a_threshold_for_the_best_stays(tmp_path):
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.keras",
        monitor="loss",
        save_best_only=True,
        initial_value_threshold=1e-9,
    )
    train(tmp_path / "backup", checkpoint)
    assert not (tmp_path / "best.keras").exists()
    assert checkpoint.best == 1e-9


@pytest.mark.slow
def test_rows_of_a_csv_file_go_on(tmp_path):
    def logger():
        return keras.callbacks.CSVLogger(tmp_path / "log.csv")

    first = logger()
    killed(tmp_path / "backup", first, Kill("on_epoch_begin", 3))
    first.csv_file.close()  # As the end of the program would.
    train(tmp_path / "backup", logger())
    train(tmp_path / "backup", logger())
    rows = (tmp_path / "log.csv").read_text().splitlines()
    epochs = [row.split(",")[0] for row in rows]
    assert epochs == ["epoch", "0", "1", "2", "3", "4"]
