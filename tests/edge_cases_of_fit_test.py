"""Edge cases of `fit`: every boundary, a second fit, failures."""

import keras
import numpy as np
import pytest
from edge_cases import HOOKS
from edge_cases import Breaking
from edge_cases import WatchEveryHook
from edge_cases import all_masks
from edge_cases import assert_zeros
from edge_cases import beside
from edge_cases import bits
from edge_cases import fit_breaking
from edge_cases import mask_bits
from edge_cases import ours
from edge_cases import said
from edge_cases import with_built_optimizer
from helpers import STEPS
from helpers import TOTAL
from helpers import compile_model
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import lines_with
from helpers import rates_of
from helpers import skip_unless_steps_run_together
from helpers import wrapped
from helpers import zeros

import keras_bimp
from keras_bimp._src import schedules
from keras_bimp._src.backup.generations import Generations

# Our callbacks, twice.


@pytest.mark.parametrize("same", [False, True])
def test_two_lists_in_one_fit_are_refused_and_leave_nothing(same):
    model = with_built_optimizer()
    before, rate = bits(model), model.optimizer._learning_rate
    first = ours(0.5)
    second = first if same else ours(0.75)
    with pytest.raises(
        ValueError, match=r"`callbacks`.*`keras_bimp\.callbacks`"
    ):
        fit(model, 3, [*first, *second])
    assert bits(model) == before
    assert model.optimizer._learning_rate is rate
    fit(model, 3, first)
    assert_zeros(model, 36)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


OPTIMIZERS = {
    "decay": (
        "SGD",
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        1,
    ),
    "adamw": ("AdamW", {"weight_decay": 0.1}, 2),
    "average": ("SGD", {"momentum": 0.9, "use_ema": True}, 2),
    "overwritten": (
        "AdamW",
        {"use_ema": True, "ema_overwrite_frequency": 3, "ema_momentum": 0.5},
        3,
    ),
}


@pytest.mark.parametrize(
    ("name", "together"),
    [
        ("decay", 2),
        ("overwritten", 1),
        *(
            pytest.param(name, together, marks=pytest.mark.slow)
            for name, together in (
                ("decay", 1),
                ("adamw", 1),
                ("average", 1),
                ("overwritten", 2),
            )
        ),
    ],
)
def test_what_is_pruned_is_zero_at_every_boundary(name, together):
    if together > 1:
        skip_unless_steps_run_together()
    kind, arguments, slots = OPTIMIZERS[name]
    model = wrapped(
        getattr(keras.optimizers, kind)(0.05, **arguments),
        steps_per_execution=together,
    )
    watch = WatchEveryHook()
    fit(
        model,
        4,
        [*ours(0.8, 1, cycles=2), watch],
        validation_data=data(16, seed=1),
    )
    assert {hook for hook, _, _ in watch.seen} == set(HOOKS)
    assert {count for _, _, count in watch.seen[5:]} == {slots}
    counts = [count for hook, count, _ in watch.seen if hook == HOOKS[1]]
    assert counts == [0, 40, 58, 58]
    ends = [count for hook, count, _ in watch.seen if "batch_end" in hook]
    assert sorted(set(ends)) == [0, 40, 58]
    # After the last callback Keras may set weights to their averages.
    assert_zeros(model, 58)


# In the middle of a plan.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("initial_epoch", "missed", "counts", "cycles"),
    [
        (2, 0, [30, 30, 47, 47, 58, 58], [1, 1, 2, 2, 3, 3]),
        (4, 1, [47, 47, 58, 58], [2, 2, 3, 3]),
        (5, 1, [47, 58, 58], [2, 3, 3]),
        (7, 2, [58], [3]),
    ],
)
def test_initial_epoch_counts_what_was_before_as_done(
    initial_epoch, missed, counts, cycles
):
    class First(keras.callbacks.Callback):
        count = None

        def on_train_batch_begin(self, batch, logs=None):
            if self.count is None:
                self.count = zeros(self.model)

    model, first = wrapped(), First()
    (callback,) = ours(0.8, 2, cycles=3)
    arguments = {
        "callbacks": [callback, first],
        "initial_epoch": initial_epoch,
    }
    if missed:
        text = rf"`fit`.* {initial_epoch}\b.* {missed} "
        with pytest.warns(UserWarning, match=text) as warned:
            history = fit(model, 8, **arguments).history
        assert len(said(warned)) == 1
    else:
        history = fit(model, 8, **arguments).history
    assert first.count == counts[0]
    np.testing.assert_allclose(np.array(history["sparsity"]) * TOTAL, counts)
    assert history["cycle"] == cycles
    assert len(callback.prunings) == len(set(counts) - {0})
    # The rates are those of the remaining epochs.
    np.testing.assert_allclose(
        history["learning_rate"],
        rates_of(callback)[STEPS - 1 :: STEPS][initial_epoch:]
        if min(history["discount"]) == 1
        else history["learning_rate"],
        rtol=1e-6,
    )
    assert_zeros(model, 58)


# A second time.


def test_a_second_fit_counts_anew_and_keeps_what_is_pruned():
    model = wrapped()
    (callback,) = ours(0.75, cycles=2)
    fit(model, 4, [callback])
    assert len(callback.prunings) == 2
    plan, masks = callback.plan, mask_bits(model)
    iterations = int(model.optimizer.iterations)
    with pytest.warns(UserWarning, match=r"\b54 .*\b72 "):
        history = fit(model, 5, [callback])
    assert callback.plan is not plan
    assert (plan.epochs, callback.plan.epochs) == (4, 5)
    assert len(callback.prunings) == 2
    assert history.epoch == [0, 1, 2, 3, 4]
    assert history.history["cycle"] == [0, 1, 1, 2, 2]
    assert history.history["norm_drop"] == [0] * 5
    # The last step of a line from 0.1 to 0.
    assert history.history["learning_rate"][0] == pytest.approx(0.1 / STEPS)
    assert int(model.optimizer.iterations) == iterations + 5 * STEPS
    assert mask_bits(model) == masks
    assert_zeros(model, 54)


def test_a_second_fit_to_more_prunes_what_is_left():
    model = wrapped()
    fit(model, 2, ours(0.5))
    before = all_masks(model)
    (callback,) = ours(0.75)
    history = fit(model, 3, [callback]).history
    assert history["sparsity"] == [0.5, 0.75, 0.75]
    assert callback.prunings[0].pruned_fraction == 18 / 36
    assert not (all_masks(model) & ~before).any()
    assert_zeros(model, 54)


# Others that set the learning rate.


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.callbacks.ReduceLROnPlateau("loss"),
        lambda: keras.callbacks.LearningRateScheduler(lambda epoch: 0.5),
    ],
)
def test_another_that_sets_the_learning_rate_is_refused(make, place, tmp_path):
    model, other = with_built_optimizer(), make()
    before, rate = bits(model), model.optimizer._learning_rate
    callbacks = beside(
        ours(0.5, backup_dir=tmp_path / "backup"), [other], place
    )
    with pytest.raises(ValueError, match=type(other).__name__):
        fit(model, 3, callbacks)
    assert bits(model) == before
    assert model.optimizer._learning_rate is rate
    assert not (tmp_path / "backup").exists()


# Arguments of `fit` other than the data.


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"validation_data": data(32, seed=1)},
        {"class_weight": {0: 1.0, 1: 3.0, 2: 0.5}},
        {
            "sample_weight": np.linspace(0, 2, 64, dtype="float32"),
            "validation_split": 0.5,
        },
    ],
    ids=" ".join,
)
def test_the_dense_phase_is_a_training_without_us(arguments):
    steps = STEPS * (1 - arguments.get("validation_split", 0))
    plain = compile_model(dense_model(), keras.optimizers.SGD(0.05))
    expected = fit(plain, 2, **arguments).history
    model = wrapped(keras.optimizers.SGD(0.05))
    (callback,) = ours(
        0.6, 2, dense_schedule=schedules.Constant(0.05, 2 * int(steps))
    )
    history = fit(model, 4, [callback], **arguments).history
    assert callback.plan.steps_per_epoch == steps
    assert set(expected) < set(history)
    for name, values in expected.items():
        assert history[name][:2] == values
        assert len(history[name]) == 4
    assert_zeros(model, 43)


# Data that end early.


def batches(fails_at=None):
    """Yields the batches of `fit` repeatedly, or until it fails."""
    x, y = data()
    drawn = 0
    while True:
        for i in range(0, 64, 16):
            if drawn == fails_at:
                raise OSError("the disk is gone")
            drawn += 1
            yield x[i : i + 16], y[i : i + 16]


def fit_batches(model, callbacks, fails_at=None, epochs=4):
    return model.fit(
        batches(fails_at),
        epochs=epochs,
        steps_per_epoch=STEPS,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )


@pytest.mark.slow
@pytest.mark.parametrize("fails_at", [STEPS + 1, 2 * STEPS + 2])
def test_after_data_that_broke_off_a_new_fit_works(fails_at):
    model = wrapped()
    callbacks = ours(0.75, cycles=2)
    with pytest.raises(Exception, match="the disk is gone"):
        fit_batches(model, callbacks, fails_at)
    assert_zeros(model, {STEPS + 1: 36, 2 * STEPS + 2: 54}[fails_at])
    if fails_at > 2 * STEPS:
        with pytest.warns(UserWarning, match=r"\b54 .*\b72 "):
            history = fit_batches(model, callbacks)
    else:
        history = fit_batches(model, callbacks)
    assert history.epoch == [0, 1, 2, 3]
    assert len(callbacks[0].prunings) == 2
    assert_zeros(model, 54)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


@pytest.fixture(scope="module")
def undisturbed():
    model = wrapped()
    return model, fit_batches(model, ours(0.75, cycles=2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fails_at", "new"),
    [(2, True), (STEPS + 1, False), (3 * STEPS + 3, True)],
)
def test_after_data_that_broke_off_a_backup_goes_on(
    fails_at, new, undisturbed, tmp_path, capsys
):
    model, expected = undisturbed
    bits_expected = bits(model)
    model = wrapped()
    callbacks = ours(0.75, cycles=2, backup_dir=tmp_path / "run", verbose=1)
    with pytest.raises(Exception, match="the disk is gone"):
        fit_batches(model, callbacks, fails_at)
    assert str(tmp_path) not in capsys.readouterr().out
    if new:
        model = wrapped()
        callbacks = ours(0.75, cycles=2, backup_dir=tmp_path / "run", verbose=1)
    history = fit_batches(model, callbacks)
    # It repeats the epoch, with the same batches.
    assert lines_with(
        capsys.readouterr().out,
        f"{fails_at // STEPS + 1}",
        "4",
        "0",
        str(tmp_path / "run"),
    )
    assert history.epoch == [0, 1, 2, 3]
    assert history.history == expected.history
    assert bits(model) == bits_expected
    assert_zeros(model, 54)


@pytest.mark.parametrize(("value", "epoch"), [(np.nan, 0), (np.inf, 3)])
def test_a_training_that_breaks_stops_and_is_not_exported(
    value, epoch, tmp_path
):
    model = wrapped()
    text = rf"loss.* {epoch + 1} "
    with pytest.warns(RuntimeWarning, match=text) as warned:
        history = fit_breaking(
            model, ours(0.75, 2, cycles=2), Breaking(epoch, value)
        )
    assert len(said(warned)) == 1
    assert history.epoch == list(range(epoch + 1))
    assert not np.isfinite(history.history["loss"][-1])
    assert np.isfinite(history.history["loss"][:-1]).all()
    stripped = keras_bimp.strip(model)
    with pytest.raises(ValueError, match="`model`.*" + text):
        keras_bimp.export(stripped, tmp_path / "1")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "save_freq"), [(np.nan, "epoch"), (np.inf, 1)]
)
def test_a_backup_of_a_training_that_breaks_is_good(value, save_freq, tmp_path):
    def callbacks():
        return ours(
            0.75,
            2,
            cycles=2,
            backup_dir=tmp_path / "run",
            save_freq=save_freq,
        )

    model = wrapped()
    with pytest.warns(RuntimeWarning, match="epoch 4 ") as warned:
        fit_breaking(model, callbacks(), Breaking(3, value))
    assert len(said(warned)) == 1
    state = Generations(tmp_path / "run").read()
    assert (state["epoch"], state["batch"]) == (
        3,
        0 if save_freq == "epoch" else 1,
    )
    arrays = [a for a in keras.tree.flatten(state["training"])]
    assert sum(isinstance(a, np.ndarray) for a in arrays) > 10
    for each in arrays:
        assert np.isfinite(each).all()

    model = wrapped()
    with pytest.warns(UserWarning, match="epoch 4 ") as warned:
        history = fit_breaking(model, callbacks(), Breaking())
    assert len(said(warned)) == 1
    assert history.epoch == [0, 1, 2, 3, 4]
    assert np.isfinite(history.history["loss"]).all()
    assert_zeros(model, 54)
