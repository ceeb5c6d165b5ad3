import keras
import numpy as np
import pytest
from helpers import compile_model
from helpers import data
from helpers import dense_model
from helpers import skip_unless_steps_run_together
from helpers import wrapped

import keras_bimp
from keras_bimp.backup import EpochData


def samples(batches):
    return np.concatenate([batch[0] for batch in batches]).tolist()


def orders(epoch_data, epochs):
    found = []
    for epoch in range(epochs):
        epoch_data.epoch = epoch
        found.append(samples(epoch_data))
    return found


def test_the_order_is_a_function_of_seed_and_epoch():
    x = np.arange(10)
    one, same, other = (
        EpochData(x, x + 100, batch_size=4, seed=seed) for seed in (1, 1, 2)
    )
    first, second, third = orders(one, 3)
    assert sorted(first) == sorted(second) == x.tolist()
    assert len({tuple(first), tuple(second), tuple(third)}) == 3
    assert orders(same, 3) == [first, second, third]
    assert orders(other, 1) != [first]
    # Independent of what came before.
    same.epoch = 1
    assert samples(same) == second
    assert [len(x) for x, _ in same] == [4, 4, 2]
    assert all((y == x + 100).all() for x, y in same)


def test_it_takes_nested_arrays_and_none_of_weights():
    x = {"a": np.arange(6).reshape(3, 2), "b": (np.arange(3), None)}
    batches = EpochData(
        x, np.arange(3), np.ones(3), batch_size=2, shuffle=False
    )
    inputs, y, weight = batches[0]
    assert inputs["a"].tolist() == [[0, 1], [2, 3]]
    assert inputs["b"][0].tolist() == [0, 1]
    assert inputs["b"][1] is None
    assert (y.tolist(), weight.tolist()) == ([0, 1], [1, 1])
    assert len(EpochData(np.arange(3), batch_size=2)[0]) == 1


def test_a_transform_draws_the_same_numbers_again():
    def noise(batch, rng):
        return (batch[0] + rng.random(len(batch[0])),)

    one, same = (
        EpochData(np.zeros(6), batch_size=3, transform=noise) for _ in range(2)
    )
    first, second = orders(one, 2)
    assert len({*first, *second}) == 12
    assert samples([same[0], same[1]]) == first
    same.epoch = 1
    # In any order.
    assert samples([same[1], same[0]]) == second[3:] + second[:3]


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (ValueError, {"x": np.zeros((3, 2)), "y": np.zeros(4)}),
        (ValueError, {"x": np.zeros((0, 2))}),
        (TypeError, {"x": 3}),
        (TypeError, {"x": [1, 2]}),
        (ValueError, {"x": np.zeros(3), "batch_size": 0}),
        (TypeError, {"x": np.zeros(3), "seed": None}),
    ],
)
def test_bad_arguments_are_refused(error, arguments):
    with pytest.raises(error, match=f"`{list(arguments)[-1]}`"):
        EpochData(**arguments)


class Ordered(EpochData):
    """Records the samples of each epoch by their first feature."""

    def __init__(self, *args, **kwargs):
        self.seen = {}
        super().__init__(*args, **kwargs)

    def __getitem__(self, index):
        batch = super().__getitem__(index)
        self.seen[self.epoch, index] = batch[0][:, 0].tolist()
        return batch


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("built", [False, True])
def test_fit_goes_through_the_order_of_each_epoch(workers, built, tmp_path):
    model = wrapped()
    if built:  # Otherwise some backends draw a batch before the first epoch.
        model.evaluate(*data(), verbose=0)
    batches = Ordered(*data(), batch_size=16, workers=workers)
    ours = keras_bimp.callbacks(
        0.5, dense_epochs=1, verbose=0, backup_dir=tmp_path
    )
    model.fit(batches, epochs=3, verbose=0, callbacks=ours)
    expected = EpochData(*data(), batch_size=16)
    for epoch in range(3):
        expected.epoch = epoch
        for index in range(4):
            found = batches.seen[epoch, index]
            assert found == expected[index][0][:, 0].tolist()


@pytest.mark.every_backend
def test_the_same_data_train_the_same_model():
    def trained():
        keras.utils.set_random_seed(0)
        model = compile_model(dense_model())
        backup = EpochData(*data(), batch_size=16)
        model.fit(backup, epochs=3, shuffle=False, verbose=0)
        return [w for w in model.get_weights()]

    for one, other in zip(trained(), trained(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_our_callbacks_it_counts():
    batches = EpochData(*data(), batch_size=16)
    model = compile_model(dense_model())
    model.evaluate(*data(), verbose=0)
    model.fit(batches, epochs=3, shuffle=False, verbose=0)
    assert batches.epoch == 3


def test_it_begins_where_fit_begins():
    batches = Ordered(*data(), batch_size=16)
    with pytest.warns(UserWarning, match=r"`fit`.* 3\b.* 1 "):
        wrapped().fit(
            batches,
            epochs=4,
            initial_epoch=3,
            verbose=0,
            callbacks=keras_bimp.callbacks(
                0.5, dense_epochs=1, cycles=2, verbose=0
            ),
        )
    assert {epoch for epoch, _ in batches.seen} <= {0, 3}
    assert (3, 3) in batches.seen


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_a_fit_that_shuffles_it_is_told(tmp_path):
    model = compile_model(dense_model())
    batches = EpochData(*data(), batch_size=4)
    backup = keras_bimp.Backup(tmp_path, verbose=0)
    with pytest.raises(ValueError, match="shuffle=False"):
        keras_bimp.fit(
            model,
            batches,
            epochs=2,
            verbose=0,
            shuffle=True,
            callbacks=[backup],
        )
    assert model.history.epoch == []
    keras_bimp.fit(model, batches, epochs=2, verbose=0, callbacks=[backup])


@pytest.mark.slow("jax", "torch")
def test_steps_that_run_together_get_the_right_batches():
    skip_unless_steps_run_together()
    model = wrapped(steps_per_execution=3)
    batches = Ordered(*data(), batch_size=16)
    ours = keras_bimp.callbacks(0.5, dense_epochs=1, verbose=0)
    model.fit(batches, epochs=2, verbose=0, callbacks=ours)
    assert (1, 3) in batches.seen
