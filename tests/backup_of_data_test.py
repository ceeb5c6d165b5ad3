"""`Backup`: which batches a resumed epoch trains on."""

import keras
import numpy as np
import pytest
from backup_runs import KILLS
from backup_runs import Kill
from backup_runs import KilledError
from backup_runs import assert_same
from backup_runs import epoch_data
from backup_runs import killed
from backup_runs import random_model
from backup_runs import train
from helpers import array
from helpers import compile_model
from helpers import data
from helpers import fit

import keras_bimp
from keras_bimp._src import slots
from keras_bimp.backup import EpochData


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
    def recompile(model, epoch):
        if epoch == 3:  # Some callbacks do this after a change.
            model.make_train_function(force=True)

    expected = train(tmp_path / "undisturbed")
    # The last batch, after which only validation is left.
    for batch in (2, 3):
        folder = tmp_path / str(batch)
        kill = Kill("on_train_batch_end", 3, batch)
        killed(folder, Count(), kill, save_freq=1)
        count = Count(recompile)
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
