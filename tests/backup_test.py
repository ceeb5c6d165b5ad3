import concurrent.futures
import errno
import functools
import os
import shutil
import signal
import warnings

import keras
import numpy as np
import pytest
from helpers import array
from helpers import compile_model
from helpers import data
from helpers import fit
from helpers import kernels_and_masks
from helpers import lines_with
from helpers import skip_unless_steps_run_together
from helpers import wrapped
from keras import layers
from two_replicas import mirrored

import keras_bimp
from keras_bimp._src import failures
from keras_bimp._src import schedules
from keras_bimp._src import slots
from keras_bimp._src.backup import Generations
from keras_bimp._src.backup import generations
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


@pytest.mark.every_backend
def test_a_run_killed_again_and_again_comes_to_the_same_bits(tmp_path):
    expected = train(tmp_path / "undisturbed")
    folder = tmp_path / "killed"
    for i, moment in enumerate(KILLS):
        killed(folder, Kill(*moment), save_freq=2 if i % 2 else "epoch")
    assert len(list(folder.iterdir())) == 2
    assert_same(train(folder), expected)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(tmp_path_factory.mktemp("undisturbed"))


def test_it_goes_on_where_it_says(tmp_path, capsys):
    killed(tmp_path, Kill("on_train_batch_end", 3, 2), save_freq=2)
    epochs = []

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            epochs.append(epoch)

    train(tmp_path, Look(), save_freq=2, verbose=1)
    assert epochs == [3, 4]
    said = capsys.readouterr().out
    assert lines_with(said, "4", "5", "2", str(tmp_path))


@pytest.fixture(autouse=True)
def interruptible():
    """Enables Ctrl-C, which background jobs of a shell may ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Torn(keras.callbacks.Callback):
    """Sends signals to this process at the beginning of a batch."""

    def __init__(self, *numbers, epoch=3, batch=1, test=False):
        super().__init__()
        self.numbers, self.at, self.epoch = numbers, (epoch, batch), None
        self.test = test

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if not self.test:
            self.send(batch)

    def on_test_batch_begin(self, batch, logs=None):
        if self.test:
            self.send(batch)

    def send(self, batch):
        if (self.epoch, batch) == self.at:
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.mark.slow
@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)],
)
def test_a_signal_waits_for_the_step_and_its_backup(
    number, error, test, tmp_path, capsys, undisturbed
):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    # Validation has two batches, and continues to the second.
    torn = Torn(number, batch=0 if test else 1, test=test)
    with pytest.raises(error) as raised:
        train(tmp_path, torn, verbose=1)
    if error is SystemExit:
        assert raised.value.code == 143
    assert before == [
        signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)
    ]
    said = capsys.readouterr().out
    assert lines_with(said, "3", "5", "80.56%")
    state = Generations(tmp_path).read()
    # It only waited for the current step.
    assert (state["epoch"], state["batch"]) == (3, 4 if test else 2)
    assert_same(train(tmp_path), undisturbed)


def test_a_second_signal_acts_at_once(tmp_path):
    torn = Torn(signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, torn)
    state = Generations(tmp_path).read()
    assert (state["epoch"], state["batch"]) == (3, 0)


@pytest.mark.slow
def test_a_signal_after_a_fit_that_died_acts_at_once(tmp_path):
    ours = signal.getsignal(signal.SIGINT)
    killed(tmp_path, Kill("on_train_batch_end", 3, 2))
    assert signal.getsignal(signal.SIGINT) == ours
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    for _ in range(2):
        killed(tmp_path, Kill("on_train_batch_end", 3, 2))
    train(tmp_path)
    assert signal.getsignal(signal.SIGINT) == ours


def test_signals_are_left_alone_outside_the_main_thread(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(signal.getsignal(signal.SIGTERM))

    with concurrent.futures.ThreadPoolExecutor(1) as other:
        other.submit(train, tmp_path, Look()).result()
    assert set(seen) == {before}


def test_a_finished_run_is_not_trained_again(tmp_path, capsys, undisturbed):
    model, *_ = finished = train(tmp_path)
    assert_same(finished, undisturbed)
    kernels = [k for k, _ in kernels_and_masks(model)]
    capsys.readouterr()
    again = train(tmp_path, Kill("on_epoch_begin"), verbose=1)
    assert_same(again, undisturbed)
    assert lines_with(capsys.readouterr().out, "5", str(tmp_path))
    for (kernel, _), expected in zip(
        kernels_and_masks(again[0]), kernels, strict=True
    ):
        np.testing.assert_array_equal(kernel, expected)
    # Another `fit` of the same model is another run.
    with pytest.raises(ValueError, match=r"`backup_dir`.*`fit`"):
        train(tmp_path, model=again[0], dense_epochs=0, cycles=1)
    assert_same(again, undisturbed)
    train(tmp_path / "2", model=again[0], dense_epochs=0, cycles=1)


FOREIGN = [
    (r"target_sparsity.*0\.8.*0\.7", {"target": 0.7}),
    ("epochs.*5.*6", {"epochs": 6}),
    ("phases", {"dense_epochs": 3}),
    ("phases", {"retraining": "allr"}),
    ("pruning", {"allocation": "uniform"}),
    ("optimizer.*SGD.*Adam", {"optimizer": "adam"}),
    (r"learning rate.*0\.1.*0\.2", {"optimizer": 0.2}),
    ("weights.*72", {"units": 9}),
    (r"target_sparsity.*0\.8.*None", {"dense": True}),
]


@pytest.fixture(scope="module")
def killed_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    killed(folder, Kill("on_epoch_end", 2))
    return folder


@pytest.mark.parametrize(("message", "change"), FOREIGN)
def test_the_state_of_another_run_is_refused(
    message, change, killed_run, tmp_path
):
    shutil.copytree(killed_run, tmp_path, dirs_exist_ok=True)
    files = {p: p.read_bytes() for p in tmp_path.iterdir()}
    optimizer = change.pop("optimizer", None)
    if isinstance(optimizer, float):
        optimizer = keras.optimizers.SGD(optimizer, momentum=0.9, nesterov=True)
    model = random_model(optimizer, units=change.pop("units", 8))
    before = [array(v) for v in model.variables]
    rate = model.optimizer._learning_rate
    again = functools.partial(train, tmp_path, model=model, **change)
    if change.pop("dense", False):
        backup = keras_bimp.Backup(tmp_path)
        again = functools.partial(
            model.fit, epoch_data(), epochs=EPOCHS, callbacks=[backup]
        )
    with pytest.raises(ValueError, match="`backup_dir`.*" + message):
        again()
    for variable, array_before in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(array(variable), array_before)
    assert not isinstance(model.optimizer._learning_rate, schedules.Joined)
    assert float(array(model.optimizer._learning_rate)) == float(array(rate))
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == files


def test_a_weight_of_another_shape_is_refused(tmp_path):
    folder = tmp_path / "dense"
    for units, epochs in ((8, 1), (9, 2)):
        model = random_model(units=units)
        plain = keras_bimp.strip(model)
        compile_model(plain)
        fitted = functools.partial(
            fit, plain, epochs, [keras_bimp.Backup(folder, verbose=0)]
        )
        if units == 8:
            fitted()
            continue
        with pytest.raises(ValueError, match=r"\(6, 8\).*model/hidden"):
            fitted()
    # More epochs of the same training are no other run; fewer are.
    plain = compile_model(keras_bimp.strip(random_model()))
    history = fit(plain, 3, [keras_bimp.Backup(folder, verbose=0)])
    assert history.epoch == [0, 1, 2]
    with pytest.raises(ValueError, match=r"`backup_dir`.* 3 epochs.* 2"):
        fit(
            compile_model(keras_bimp.strip(random_model())),
            2,
            [keras_bimp.Backup(folder)],
        )


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path, undisturbed):
    killed(tmp_path, Kill("on_epoch_end", 3))
    newest, _ = Generations(tmp_path).paths()
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=newest.name):
        assert_same(train(tmp_path), undisturbed)


def test_states_that_cannot_be_read_are_refused(tmp_path):
    killed(tmp_path, Kill("on_epoch_end", 3))
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match=r"\.state"),
        pytest.raises(ValueError, match=r"`backup_dir`.*2 files"),
    ):
        train(tmp_path)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    model = random_model()
    with pytest.raises(ValueError, match=r"`backup_dir`.*Errno"):
        train(tmp_path / "file" / "backup", model=model)
    assert not isinstance(model.optimizer._learning_rate, schedules.Joined)


@pytest.mark.slow
def test_a_full_disk_warns_and_the_training_goes_on(
    tmp_path, monkeypatch, undisturbed
):
    write, calls = generations._write, []

    def full(file, data):
        calls.append(data)
        if len(calls) > 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    with monkeypatch.context() as patched:
        patched.setattr(generations, "_write", full)
        with pytest.warns(UserWarning, match=str(tmp_path)) as told:
            finished = train(tmp_path)
    assert_same(finished, undisturbed)
    assert sum("No space left" in str(each.message) for each in told) == 5
    assert [p.name for p in tmp_path.iterdir()] == ["00000000.state"]
    assert_same(train(tmp_path), undisturbed)


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


def test_two_backups_in_one_fit_are_refused(tmp_path):
    for other in (
        keras_bimp.Backup(tmp_path / "two"),
        keras.callbacks.BackupAndRestore(tmp_path / "two"),
    ):
        with pytest.raises(
            ValueError, match=f"`callbacks`.*{type(other).__name__}"
        ):
            train(tmp_path / "one", other)


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (TypeError, {"backup_dir": 3}),
        (TypeError, {"backup_dir": ""}),
        (TypeError, {"backup_dir": "x", "save_freq": 1.5}),
        (ValueError, {"backup_dir": "x", "save_freq": 0}),
    ],
)
def test_bad_arguments_are_refused(error, arguments):
    with pytest.raises(error, match=f"`{list(arguments)[-1]}`"):
        keras_bimp.Backup(**arguments)
    with pytest.raises(error, match=f"`{list(arguments)[-1]}`"):
        keras_bimp.callbacks(0.5, dense_epochs=1, **arguments)


@pytest.mark.slow
@pytest.mark.job("replicas")
def test_under_a_strategy_it_goes_on(tmp_path):
    def model():
        with mirrored().scope():
            return random_model(jit_compile=False)

    expected = train(tmp_path / "undisturbed", model=model())
    for moment in (KILLS[4], KILLS[5]):
        folder = tmp_path / moment[0]
        killed(folder, Kill(*moment), model=model(), save_freq=1)
        assert_same(train(folder, model=model(), save_freq=1), expected)


class Count(keras.callbacks.Callback):
    """Counts the batches that it sees, and reads their logs."""

    def __init__(self, hook=None):
        super().__init__()
        self.count, self.hook = 0, hook

    def on_epoch_begin(self, epoch, logs=None):
        if self.hook is not None:
            self.hook(self.model, epoch)

    def on_train_batch_end(self, batch, logs=None):
        assert np.isfinite(logs["loss"])
        self.count += 1

    def get_state(self):
        return {"count": self.count}

    def set_state(self, state):
        self.count = state["count"]


@pytest.mark.slow
@pytest.mark.every_backend
def test_batches_that_are_skipped_count_once(tmp_path):
    def anew(model, epoch):
        if epoch == 3:  # Some callbacks do this after a change.
            model.make_train_function(force=True)

    expected = train(tmp_path / "undisturbed")
    # The last batch, after which only validation is left.
    for batch in (2, 3):
        folder = tmp_path / str(batch)
        kill = Kill("on_train_batch_end", 3, batch)
        killed(folder, Count(), kill, save_freq=1)
        count = Count(anew)
        assert_same(train(folder, count, save_freq=1), expected)
        assert count.count == 20


@pytest.mark.slow
@pytest.mark.every_backend
def test_a_fit_that_dies_while_it_skips_leaves_the_next_one_alone(tmp_path):
    model = random_model()
    for at in (3, 0):
        killed(
            tmp_path,
            Kill("on_train_batch_end", 3, at),
            model=model,
            save_freq=1,
        )
    before = slots.innermost(model.optimizer).iterations
    before = int(array(before))
    model.fit(epoch_data(), epochs=2, verbose=0)
    after = int(array(slots.innermost(model.optimizer).iterations))
    assert after - before == 8


def test_a_signal_in_a_plain_fit_after_one_that_died(tmp_path):
    model = random_model()
    killed(tmp_path, Kill("on_train_batch_end", 3, 2), model=model)
    with pytest.raises(KeyboardInterrupt):
        model.fit(
            epoch_data(),
            epochs=5,
            verbose=0,
            callbacks=[Torn(signal.SIGINT, epoch=1)],
        )
    assert model.history.epoch == [0]


def test_a_model_that_is_not_built_is_refused(tmp_path):
    model = keras.Sequential([layers.Dense(8), layers.Dense(3)])
    with pytest.raises(ValueError, match=r"`model`.*`keras\.Input`"):
        fit(compile_model(model), 2, [keras_bimp.Backup(tmp_path)])


@pytest.mark.slow
def test_it_must_come_after_the_pruning(tmp_path):
    model = random_model()
    (ours,) = keras_bimp.callbacks(0.5, dense_epochs=1, verbose=0)
    one, other = keras_bimp.Backup(tmp_path), keras_bimp.Backup(tmp_path)
    for others, text in (
        ([one, ours], r"`Backup`.*`keras_bimp\.callbacks`"),
        ([ours, one, other], "`callbacks`.*Backup"),
    ):
        with pytest.raises(ValueError, match=text):
            fit(model, 2, others)
        assert not isinstance(model.optimizer._learning_rate, schedules.Joined)
        # The next `fit` undoes whatever was started before.
        fit(model, 1)


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


@pytest.mark.slow
@pytest.mark.parametrize("moment", [("on_epoch_end", 2), KILLS[4], KILLS[5]])
def test_validation_data_come_in_the_same_order(moment, tmp_path):
    def noise(batch, rng):
        return batch[0] + rng.standard_normal((1, 6)), batch[1]

    def run(folder, *others):
        ours = keras_bimp.callbacks(
            0.8, dense_epochs=2, verbose=0, backup_dir=folder, save_freq=2
        )
        model = random_model()
        return model.fit(
            epoch_data(),
            epochs=5,
            verbose=0,
            validation_data=epoch_data(transform=noise),
            callbacks=[*ours, *others],
        ).history

    expected = run(tmp_path / "undisturbed")
    with pytest.raises(KilledError):
        run(tmp_path / "killed", Kill(*moment))
    np.testing.assert_equal(run(tmp_path / "killed"), expected)  # NaN, too.


@pytest.mark.slow
def test_an_order_that_another_fit_spoiled_is_not_held_against_it(tmp_path):
    plain = compile_model(keras_bimp.strip(random_model()))
    plain.fit(EpochData(*data(), batch_size=4), epochs=1, verbose=0)
    fit(plain, 2, [keras_bimp.Backup(tmp_path, verbose=0)])


@pytest.mark.slow
@pytest.mark.every_backend
def test_data_of_unknown_length_go_on(tmp_path):
    # The same batches in each epoch.
    class Endless(keras.utils.PyDataset):
        num_batches = None

        def __getitem__(self, index):
            batches = [slice(16 * i, 16 * i + 16) for i in range(4)]
            x, y = data()
            return x[batches[index % 4]], y[batches[index % 4]]

    def run(folder, *others):
        model = random_model()
        ours = keras_bimp.callbacks(
            0.8, dense_epochs=2, verbose=0, backup_dir=folder, save_freq=1
        )
        model.fit(
            Endless(),
            shuffle=False,
            epochs=5,
            steps_per_epoch=4,
            verbose=0,
            callbacks=[*ours, *others],
        )
        return model

    expected = run(tmp_path / "undisturbed")
    with pytest.raises(KilledError):
        run(tmp_path / "killed", Kill("on_train_batch_end", 3, 2))
    again = run(tmp_path / "killed")
    for one, other in zip(again.variables, expected.variables, strict=True):
        np.testing.assert_array_equal(array(one), array(other))


@pytest.mark.slow
def test_no_epochs_at_all(tmp_path):
    plain = compile_model(keras_bimp.strip(random_model()))
    assert fit(plain, 0, [keras_bimp.Backup(tmp_path)]).epoch == []
    other = compile_model(keras_bimp.strip(random_model()))
    assert fit(other, 2, [keras_bimp.Backup(tmp_path)]).epoch == [0, 1]


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
