import keras
import numpy as np
import pytest
from helpers import STEPS
from helpers import TOTAL
from helpers import RecordingSGD
from helpers import array
from helpers import compile_model
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import gradients
from helpers import kernels_and_masks
from helpers import lines_with
from helpers import masked
from helpers import rates_of
from helpers import recorded
from helpers import wrapped
from helpers import zeros
from keras import layers
from keras import ops
from retraining_runs import Watch

import keras_bimp
from keras_bimp._src import schedules
from keras_bimp._src.keras_internals.optimizer_state import slots_of


def test_bimp_prunes_exactly_and_logs_what_it_did():
    model = wrapped()
    callback, *rest = ours = keras_bimp.callbacks(
        0.8, dense_epochs=4, cycles=3, verbose=0
    )
    assert not rest
    watch = Watch()
    history = fit(model, 10, [*ours, watch]).history
    expected = [0] * 4
    for count, epochs in zip(
        callback.plan.pruned(TOTAL)[1:], (2, 2, 2), strict=True
    ):
        expected += [count] * epochs
    assert expected[-1] == round(0.8 * TOTAL) == zeros(model)
    np.testing.assert_allclose(history["sparsity"], np.array(expected) / TOTAL)
    assert history["cycle"] == [0] * 4 + [1, 1, 2, 2, 3, 3]
    assert (watch.logs[3]["norm_drop"], watch.logs[3]["discount"]) == (0, 1)
    assert watch.logs[4]["norm_drop"] == callback.prunings[0].norm_drop
    np.testing.assert_allclose(
        history["learning_rate"],
        rates_of(callback)[STEPS - 1 :: STEPS],
        rtol=1e-6,
    )


def test_the_discount_is_that_of_the_paper():
    model = wrapped(RecordingSGD(0.1, momentum=0.9))
    (callback,) = keras_bimp.callbacks(
        0.7, dense_epochs=7, original_epochs=1000, verbose=0
    )
    before = {}

    class Before(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 6:
                kernels = [k for k, _ in kernels_and_masks(self.model)]
                before["w"] = np.concatenate([k.ravel() for k in kernels])

    history = fit(model, 10, [callback, Before()]).history
    w = before["w"].astype("float64")
    pruned = np.sort(np.abs(w))[: round(0.7 * TOTAL)]
    drop = np.sqrt((pruned**2).sum() / (w**2).sum())
    assert callback.prunings[0].norm_drop == pytest.approx(drop, rel=1e-6)
    fraction = round(0.7 * TOTAL) / TOTAL
    assert callback.prunings[0].pruned_fraction == fraction
    discount = max(drop / np.sqrt(fraction), 3 / 1000)
    assert 0.1 < discount < 0.9
    np.testing.assert_allclose(history["discount"][7:], discount, rtol=1e-6)
    rates = recorded(model.optimizer)
    assert rates.max() == pytest.approx(0.1)
    assert rates[7 * STEPS :].max() == pytest.approx(0.1 * discount, rel=1e-6)


def test_phases_begin_on_time_when_steps_are_skipped():
    # A loss scale of 2^127 overflows: the first steps are not counted.
    inner = RecordingSGD(0.002)
    optimizer = keras.optimizers.LossScaleOptimizer(
        inner, initial_scale=2.0**127
    )
    model = wrapped(optimizer, loss_weights=50.0)
    (callback,) = keras_bimp.callbacks(0.8, dense_epochs=2, verbose=0)
    counts = []

    class Count(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            counts.append(int(inner.iterations))

    fit(model, 5, [callback, Count()], batch_size=8)
    skipped = 2 * 8 - counts[2]
    assert 0 < skipped < 2 * 8
    rates = recorded(optimizer)
    dense, cycle = np.split(rates_of(callback), [2 * 8])
    np.testing.assert_allclose(
        rates[: 16 - skipped], dense[: 16 - skipped], rtol=1e-6
    )
    np.testing.assert_allclose(
        rates[16 - skipped : int(inner.iterations)],
        cycle[: int(inner.iterations) - (16 - skipped)],
        rtol=1e-6,
        atol=1e-9,
    )


def test_a_pretrained_optimizer_does_not_start_at_zero():
    model = wrapped(RecordingSGD(0.1, momentum=0.9))
    fit(model, 3)
    (callback,) = keras_bimp.callbacks(
        0.8, dense_epochs=0, original_epochs=3, cycles=2, verbose=0
    )
    fit(model, 4, [callback])
    np.testing.assert_allclose(
        recorded(model.optimizer)[12 : 12 + 16],
        rates_of(callback),
        rtol=1e-6,
        atol=1e-9,
    )
    assert zeros(model) == round(0.8 * TOTAL)


@pytest.mark.every_backend
def test_more_cycles_trace_the_step_no_more_often():
    def traces(cycles):
        count = 0

        class Counting(layers.Layer):
            def call(self, x):
                nonlocal count
                count += 1
                return x

        model = dense_model()
        model.add(Counting())
        model = wrapped(model=model)
        count = 0
        ours = keras_bimp.callbacks(
            0.8, dense_epochs=1, cycles=cycles, verbose=0
        )
        fit(model, 5, ours)
        return count

    if keras.backend.backend() == "torch":
        assert traces(1) == traces(4) >= 5 * STEPS  # Nothing is compiled.
    else:
        assert traces(4) == traces(1) > 0


@pytest.mark.every_backend
def test_prune_in_a_loop_of_ones_own():
    model = keras_bimp.wrap(dense_model())
    optimizer = keras.optimizers.Adam(0.01)
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x, y = data()
    losses = []
    for step in range(20):
        if step == 10:
            pruning = keras_bimp.prune(model, 0.5, optimizer=optimizer)
        loss, found = gradients(model, loss_fn, x, y)
        optimizer.apply(found, model.trainable_variables)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert zeros(model) == 36 == TOTAL - sum(pruning.counts.values())


def test_pruned_weights_never_grow_back():
    model = wrapped()
    keras_bimp.prune(model, 0.5)
    before = [mask for _, mask in kernels_and_masks(model)]
    with pytest.warns(UserWarning, match=r"\b36 .*\b72 "):
        pruning = keras_bimp.prune(model, 0.25)
    assert pruning.norm_drop == pruning.pruned_fraction == 0
    keras_bimp.prune(model, 0.75)
    for old, (_, new) in zip(before, kernels_and_masks(model), strict=True):
        assert not (new & ~old).any()
    assert zeros(model) == 54


def test_a_second_pruning_is_measured_by_what_was_left():
    model = wrapped()
    keras_bimp.prune(model, 0.5, on_collapse="ignore")
    kernels = [kernel for kernel, _ in kernels_and_masks(model)]
    squares = np.sort(np.concatenate([k.ravel() for k in kernels]) ** 2.0)
    pruning = keras_bimp.prune(model, 0.75, on_collapse="ignore")
    assert pruning.pruned_fraction == 18 / 36
    # The first 36 are already 0.
    assert pruning.norm_drop == pytest.approx(
        np.sqrt(squares[36:54].sum() / squares.sum()), rel=1e-6
    )


def test_target_zero_changes_no_weight():
    plain = compile_model(dense_model())
    linear = schedules.Linear(0.1, 2 * STEPS)
    retrain = schedules.LLR(0.1, 2 * STEPS)
    plain.optimizer.learning_rate = schedules.Joined(
        [linear, retrain], begins=[0, 2 * STEPS]
    )
    fit(plain, 4)
    model = wrapped()
    before = [array(v) for v in model.weights]
    pruning = keras_bimp.prune(model, 0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert pruning.norm_drop == 0
    ours = keras_bimp.callbacks(0, dense_epochs=2, retraining="llr", verbose=0)
    fit(model, 4, ours)
    for theirs, mine in zip(
        plain.weights, masked(model).layer.weights, strict=True
    ):
        np.testing.assert_array_equal(array(theirs), array(mine))


def test_a_pruning_that_removes_nothing_still_trains():
    model = dense_model()
    kernel = model.layers[0].kernel
    kernel.assign(np.where(np.arange(48).reshape(6, 8) < 36, 0, kernel))
    model = compile_model(keras_bimp.wrap(model, initial_masks="nonzero"))
    ours = keras_bimp.callbacks(0.5, dense_epochs=0, verbose=0)
    history = fit(model, 2, ours).history
    assert history["discount"] == [1.0, 1.0]
    assert min(history["learning_rate"]) > 0


def test_fine_tuning_at_a_rate_of_nothing_warns():
    plan = keras_bimp.callbacks(
        0.5, dense_epochs=30, retraining="ft", verbose=0
    )
    with pytest.warns(UserWarning, match="retraining='allr'"):
        fit(wrapped(), 31, plan)


def test_initial_epoch_makes_up_for_missed_prunings():
    model = wrapped(RecordingSGD(0.1))
    (callback,) = keras_bimp.callbacks(0.8, dense_epochs=2, cycles=3, verbose=0)
    with pytest.warns(UserWarning, match=r"`fit`.* 5\b.* 1 "):
        history = fit(model, 8, [callback], initial_epoch=5).history
    counts = callback.plan.pruned(TOTAL)
    np.testing.assert_allclose(
        history["sparsity"], np.array([counts[2], *counts[3:] * 2]) / TOTAL
    )
    # The rates are those of epochs 5, 6, 7.
    np.testing.assert_allclose(
        recorded(model.optimizer)[: 3 * STEPS],
        rates_of(callback)[5 * STEPS :],
        rtol=1e-6,
        atol=1e-9,
    )


def test_the_optimizer_gets_its_learning_rate_back():
    model = wrapped()
    fit(model, 2, keras_bimp.callbacks(0.5, dense_epochs=1, verbose=0))
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)
    names = [v.name for v in model.optimizer.variables]
    assert names[:2] == ["iteration", "learning_rate"]
    model.optimizer.learning_rate = 0.0
    before = kernels_and_masks(model)[0][0]
    for _, slot in slots_of(model.optimizer, masked(model).kernels[0].variable):
        slot.assign(ops.zeros_like(slot.value))
    fit(model, 1)
    np.testing.assert_array_equal(kernels_and_masks(model)[0][0], before)


def test_a_schedule_of_the_users_comes_back_too():
    cosine = keras.optimizers.schedules.CosineDecay(0.3, 100)
    model = wrapped(keras.optimizers.SGD(cosine))
    (callback,) = keras_bimp.callbacks(0.5, dense_epochs=1, verbose=0)
    fit(model, 2, [callback])
    assert model.optimizer._learning_rate is cosine
    assert callback.plan.peak == pytest.approx(0.3)
    assert "CosineDecay" in callback.plan.peak_source


def test_a_second_fit_has_a_fresh_plan_and_keeps_the_masks():
    model = wrapped(RecordingSGD(0.1))
    (callback,) = keras_bimp.callbacks(0.5, dense_epochs=1, verbose=0)
    fit(model, 3, [callback])
    masks = [mask for _, mask in kernels_and_masks(model)]
    first = rates_of(callback)
    history = fit(model, 3, [callback]).history
    assert len(callback.prunings) == 1
    np.testing.assert_allclose(
        recorded(model.optimizer)[: 6 * STEPS],
        np.concatenate([first, rates_of(callback)]),
        rtol=1e-6,
        atol=1e-9,
    )
    assert history["sparsity"] == [0.5] * 3
    for old, (_, new) in zip(masks, kernels_and_masks(model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_fit_after_one_that_failed_starts_afresh():
    class Fail(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise RuntimeError("power cut")

    model = wrapped(RecordingSGD(0.1))
    ours = keras_bimp.callbacks(0.5, dense_epochs=1, verbose=0)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(model, 3, [*ours, Fail()])
    fit(model, 3, ours)
    np.testing.assert_allclose(
        recorded(model.optimizer)[2 * STEPS : 5 * STEPS],
        rates_of(ours[0]),
        rtol=1e-6,
        atol=1e-9,
    )
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


def test_a_plan_in_place_of_a_target():
    plan = keras_bimp.Plan.bimp(
        0.75, epochs=4, steps_per_epoch=STEPS, dense_epochs=2, peak=0.05
    )
    model = wrapped(RecordingSGD(0.1))
    fit(model, 4, keras_bimp.callbacks(plan, verbose=0))
    assert zeros(model) == 54
    np.testing.assert_allclose(
        recorded(model.optimizer)[: 4 * STEPS],
        plan.values(),
        rtol=1e-6,
        atol=1e-9,
    )
    with pytest.raises(ValueError, match=r"epochs=5.*`fit`.* 4\b"):
        fit(model, 5, keras_bimp.callbacks(plan, verbose=0))
    also = {"dense_epochs": 2, "cycles": 2, "retraining": "ft"}
    for name, value in also.items():
        with pytest.raises(ValueError, match=f"`{name}`.*`Plan`"):
            keras_bimp.callbacks(plan, **{name: value})


def test_printed_plan_and_prunings(capsys):
    model = dense_model()
    model.layers[0].trainable = False
    model.add(layers.Dense(4))
    kernel = model.layers[-2].kernel
    fit(
        compile_model(keras_bimp.wrap(model)),
        2,
        keras_bimp.callbacks(0.6, dense_epochs=1),
    )
    text = capsys.readouterr().out
    assert lines_with(text, "2", "kernels", "36")
    assert lines_with(text, model.layers[0].kernel.path, "frozen")
    assert lines_with(text, "61.11%", "14", "36")
    assert kernel.path not in text


def collapsing(on_collapse):
    """The first kernel is so small that global pruning would empty it."""
    model = dense_model()
    kernel = model.layers[0].kernel
    kernel.assign(kernel * 1e-4)
    model = wrapped(model=model)
    return model, keras_bimp.callbacks(
        0.6, dense_epochs=0, on_collapse=on_collapse
    )


def test_collapse_is_prevented_and_said(capsys):
    model, ours = collapsing("protect")
    fit(model, 1, ours)
    (first, second) = (mask.sum() for _, mask in kernels_and_masks(model))
    assert (first, second) == (8, TOTAL - round(0.6 * TOTAL) - 8)
    path = masked(model).kernels[0].path
    assert lines_with(capsys.readouterr().out, path, "8")


def test_collapse_can_be_ignored_or_raise():
    model, ours = collapsing("ignore")
    fit(model, 1, ours)
    assert next(m.sum() for _, m in kernels_and_masks(model)) == 5
    assert zeros(model) == round(0.6 * TOTAL)
    model, ours = collapsing("raise")
    rate = model.optimizer._learning_rate
    with pytest.raises(ValueError, match=r"`on_collapse=.* 5 .*/kernel"):
        fit(model, 1, ours)
    assert model.optimizer._learning_rate is rate
