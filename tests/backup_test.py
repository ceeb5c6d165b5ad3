import errno
import functools
import shutil

import keras
import numpy as np
import pytest
from backup_runs import EPOCHS
from backup_runs import KILLS
from backup_runs import Kill
from backup_runs import assert_same
from backup_runs import epoch_data
from backup_runs import killed
from backup_runs import random_model
from backup_runs import train
from helpers import array
from helpers import compile_model
from helpers import fit
from helpers import kernels_and_masks
from helpers import lines_with
from keras import layers
from two_replicas import mirrored

import keras_bimp
from keras_bimp._src import schedules
from keras_bimp._src.backup import Generations
from keras_bimp._src.backup import generations


@pytest.mark.every_backend
def test_a_run_killed_again_and_again_comes_to_the_same_bits(tmp_path):
    expected = train(tmp_path / "undisturbed")
    folder = tmp_path / "killed"
    for i, moment in enumerate(KILLS):
        killed(folder, Kill(*moment), save_freq=2 if i % 2 else "epoch")
    assert len(list(folder.iterdir())) == 2
    assert_same(train(folder), expected)


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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(tmp_path_factory.mktemp("undisturbed"))


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
