import jobs
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

import keras_bimp
from keras_bimp._src import schedules
from keras_bimp._src import slots
from keras_bimp._src.keras_internals.optimizer_state import slots_of


class Watch(keras.callbacks.Callback):
    """Checks that pruned entries are 0 at each boundary; keeps the logs."""

    def __init__(self, starts=None):
        super().__init__()
        self.starts = starts or {}
        self.logs = []
        self.batch_logs = 0

    def check(self):
        layer = masked(self.model)
        kernels = [kernel.variable for kernel in layer.kernels]
        for (kernel, mask), pairs in zip(
            kernels_and_masks(self.model),
            slots.slots(self.model.optimizer, kernels),
            strict=True,
        ):
            assert np.isfinite(kernel).all()
            assert (kernel[~mask] == 0).all()
            for slot, start in pairs:
                value = ops.convert_to_numpy(slot.value)
                expected = next(
                    (s for n, s in self.starts.items() if n in slot.name), 0
                )
                if expected is None:
                    continue
                assert start == pytest.approx(expected)
                np.testing.assert_array_equal(
                    value[~mask], np.float32(expected), err_msg=slot.name
                )
        self.slots = len(pairs)

    def on_epoch_begin(self, epoch, logs=None):
        self.check()

    def on_train_batch_end(self, batch, logs=None):
        self.check()

    def on_epoch_end(self, epoch, logs=None):
        self.check()
        self.logs.append(dict(logs))


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


OPTIMIZERS = {
    "SGD": ({"momentum": 0.9, "weight_decay": 0.1}, {}),
    "SGD EMA": ({"use_ema": True, "ema_overwrite_frequency": 3}, {}),
    "RMSprop": ({"momentum": 0.9, "centered": True}, {}),
    "Adam": ({"amsgrad": True}, {}),
    "AdamW": ({"gradient_accumulation_steps": 2}, {}),
    "Adadelta": ({}, {}),
    # Its "velocity" is not a slot, but recomputed in each step.
    "Adafactor": ({"epsilon_1": 1e-15}, {"velocity": None}),
    "Adagrad": ({}, {"accumulator": 0.1}),
    "Adamax": ({}, {}),
    "Ftrl": ({"initial_accumulator_value": 0.2}, {"accumulator": 0.2}),
    "Lamb": ({"weight_decay": 0.1}, {}),
    "Lion": ({"weight_decay": 0.1}, {}),
    "Nadam": ({}, {}),
    "ScheduleFreeAdamW": ({"use_ema": True}, {}),
}


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.parametrize(
    "name",
    jobs.first_and_slow(OPTIMIZERS, ("SGD", "Adam")),
)
def test_pruned_entries_stay_zero_with_every_optimizer(name):
    arguments, starts = OPTIMIZERS[name]
    optimizer = getattr(keras.optimizers, name.split()[0])(0.01, **arguments)
    model = dense_model(kernel_regularizer="l2")
    model = wrapped(optimizer, model)
    # Two epochs fill the slots; then a pruning and ten steps more.
    fit(model, 2)
    watch = Watch(starts)
    ours = keras_bimp.callbacks(
        0.7, dense_epochs=1, cycles=2, retraining="llr", verbose=0
    )
    fit(model, 5, [*ours, watch])
    assert len(watch.logs) == 5
    assert zeros(model) == round(0.7 * TOTAL)
    for kernel, mask in kernels_and_masks(model):
        assert (kernel[mask] != 0).all()


def test_every_optimizer_of_keras_was_looked_at():
    known = {name.split()[0] for name in OPTIMIZERS}
    known |= {"Muon", "MultiOptimizer", "LossScaleOptimizer", "Optimizer"}
    there = {
        name
        for name, value in vars(keras.optimizers).items()
        if isinstance(value, type)
        and issubclass(value, keras.optimizers.Optimizer)
    }
    assert there <= known


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.parametrize("scaled", jobs.first_and_slow([False, True], [True]))
def test_an_optimizer_that_mixes_entries_is_held(scaled):
    optimizer = keras.optimizers.Muon(0.01)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model = dense_model(kernel_constraint="max_norm")
    constraints = [v.constraint for v in model.trainable_variables]
    model = wrapped(optimizer, model)
    fit(model, 1)
    watch = Watch()
    ours = keras_bimp.callbacks(0.7, dense_epochs=1, cycles=2, verbose=0)
    fit(model, 4, [*ours, watch])
    # The same after pruning manually, and without callbacks.
    keras_bimp.prune(model, 0.8)
    fit(model, 2, [watch])
    assert len(watch.logs) == 6
    assert zeros(model) == round(0.8 * TOTAL)
    stripped = keras_bimp.strip(model)
    assert [v.constraint for v in stripped.trainable_variables] == constraints


@pytest.mark.every_backend
def test_what_was_pruned_elsewhere_is_held_too(tmp_path):
    model = compile_model(dense_model(), keras.optimizers.Muon(0.01))
    kernel = model.layers[0].kernel
    kernel.assign(np.where(np.arange(48).reshape(6, 8) < 20, 0, array(kernel)))
    model = keras_bimp.wrap(model, initial_masks="nonzero")
    fit(model, 1, [Watch()])
    assert zeros(model) == 20
    keras_bimp.prune(model, 0.5)
    model.save_weights(tmp_path / "half.weights.h5")
    model.save(tmp_path / "half.keras")
    again = keras.models.load_model(tmp_path / "half.keras")
    fit(again, 1, [Watch()])
    assert zeros(again) == 36
    # Loaded masks take effect.
    keras_bimp.prune(model, 0.8)
    fit(model, 1)
    model.load_weights(tmp_path / "half.weights.h5")
    fit(model, 1, [Watch()])
    assert zeros(model) == 36


def test_averages_of_an_optimizer_that_mixes_entries_are_refused():
    model = wrapped(keras.optimizers.Muon(0.01, use_ema=True))
    fit(model, 1)
    with pytest.raises(ValueError, match=r"`use_ema`.*Muon"):
        keras_bimp.prune(model, 0.5)
    with pytest.raises(ValueError, match=r"`use_ema`.*Muon"):
        fit(model, 2, keras_bimp.callbacks(0.5, dense_epochs=1, verbose=0))
    assert zeros(model) == 0


def test_prune_refuses_what_is_no_optimizer():
    with pytest.raises(TypeError, match=r"`optimizer`.*'sgd'"):
        keras_bimp.prune(wrapped(), 0.5, optimizer="sgd")


def test_a_first_pruning_by_hand_reaches_a_step_that_is_compiled():
    model = wrapped(keras.optimizers.Muon(0.01))
    fit(model, 1)
    # After one that is refused, the next one must still recompile.
    constraints = [v.constraint for v in model.trainable_variables]
    with pytest.raises(ValueError, match="on_collapse"):
        keras_bimp.prune(model, 0.95)
    assert [v.constraint for v in model.trainable_variables] == constraints
    keras_bimp.prune(model, 0.5)
    fit(model, 1, [Watch()])
    assert zeros(model) == 36


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_a_penalty_on_all_weights_together_sees_what_is_left():
    penalty = keras.regularizers.OrthogonalRegularizer(0.1)
    model = dense_model(kernel_regularizer=penalty)
    model = wrapped(model=model)
    watch = Watch()
    ours = keras_bimp.callbacks(0.7, dense_epochs=1, cycles=2, verbose=0)
    fit(model, 4, [*ours, watch])
    x, y = data()
    logits = model.predict(x, verbose=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = float(loss(y, logits)) + sum(
        float(penalty(kernel)) for kernel, _ in kernels_and_masks(model)
    )
    assert model.evaluate(x, y, verbose=0)[0] == pytest.approx(expected, 1e-5)
    stripped = keras_bimp.strip(model)
    assert stripped.layers[0].kernel.regularizer is penalty


def test_an_optimizer_that_would_divide_by_zero_is_refused():
    # If a row and a column of a gradient are 0, as for pruned units, Adafactor
    # squares its `epsilon_1` of 1e-30, which is 0 in float32.
    model = wrapped(keras.optimizers.Adafactor(0.01))
    with pytest.raises(ValueError, match="epsilon_1=1e-15"):
        fit(model, 2, keras_bimp.callbacks(0.5, dense_epochs=1, verbose=0))


def test_prune_reaches_the_slots_of_a_multi_optimizer():
    optimizer = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(keras.optimizers.Adam(0.01))
    )
    model = wrapped(optimizer)
    fit(model, 1)
    keras_bimp.prune(model, 0.5)
    watch = Watch()
    fit(model, 1, [watch])
    assert watch.slots == 2
    with pytest.raises(ValueError, match="MultiOptimizer"):
        fit(model, 2, keras_bimp.callbacks(0.6, dense_epochs=1))


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


@pytest.mark.slow
@pytest.mark.parametrize("saved_after", [1, 4, 6])
@pytest.mark.parametrize("compile_first", [False, True])
def test_a_model_saved_in_mid_run_goes_on_as_if_undisturbed(
    tmp_path, saved_after, compile_first
):
    def ours():
        # The original training is so long that the discount is d1.
        return keras_bimp.callbacks(
            0.8, dense_epochs=3, cycles=2, original_epochs=100, verbose=0
        )

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch + 1 == saved_after:
                self.model.save(tmp_path / "model.keras")

    optimizer = RecordingSGD(0.1, momentum=0.9)
    if compile_first:
        undisturbed = keras_bimp.wrap(compile_model(dense_model(), optimizer))
    else:
        undisturbed = wrapped(optimizer)
    history = fit(undisturbed, 8, [*ours(), Save()]).history

    model = keras.models.load_model(tmp_path / "model.keras")
    joined = model.optimizer._learning_rate
    assert isinstance(joined, schedules.Joined)
    assert int(model.optimizer.iterations) == saved_after * STEPS
    assert zeros(model) == round(history["sparsity"][saved_after - 1] * TOTAL)
    rest = fit(model, 8, ours(), initial_epoch=saved_after).history
    for old, new in zip(
        undisturbed.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(old, new)
    for theirs, mine in zip(
        undisturbed.optimizer.variables, model.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(array(theirs), array(mine))
    assert rest["loss"] == history["loss"][saved_after:]
    assert rest["discount"] == pytest.approx(history["discount"][saved_after:])


def test_resuming_a_model_compiled_with_a_schedule(tmp_path):
    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 3:
                self.model.save(tmp_path / "model.keras")

    def ours():
        return keras_bimp.callbacks(0.8, dense_epochs=2, verbose=0)

    cosine = keras.optimizers.schedules.CosineDecay(0.1, 6 * STEPS)
    undisturbed = wrapped(keras.optimizers.SGD(cosine, momentum=0.9))
    fit(undisturbed, 6, [*ours(), Save()])
    model = keras.models.load_model(tmp_path / "model.keras")
    fit(model, 6, ours(), initial_epoch=4)
    for old, new in zip(
        undisturbed.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(old, new)
    assert isinstance(model.optimizer._learning_rate, type(cosine))


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


def test_a_loaded_model_goes_on_without_callbacks_to_the_end_of_its_cycle(
    tmp_path,
):
    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 3:
                self.model.save(tmp_path / "model.keras")

    undisturbed = wrapped()
    ours = keras_bimp.callbacks(0.8, dense_epochs=2, verbose=0)
    fit(undisturbed, 6, [*ours, Save()])
    model = keras.models.load_model(tmp_path / "model.keras")
    fit(model, 6, initial_epoch=4)
    for old, new in zip(
        undisturbed.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(old, new)


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


def test_data_of_unknown_length():
    x, y = data()

    def batches():
        while True:
            yield x[:16], y[:16]

    model = wrapped()
    with pytest.raises(ValueError, match="`steps_per_epoch`"):
        model.fit(
            ((x[:16], y[:16]) for _ in range(8)),
            epochs=2,
            verbose=0,
            shuffle=False,
            callbacks=keras_bimp.callbacks(0.5, dense_epochs=1),
        )
    ours = keras_bimp.callbacks(
        0.5, dense_epochs=1, steps_per_epoch=3, verbose=0
    )
    model.fit(
        batches(),
        epochs=2,
        steps_per_epoch=3,
        verbose=0,
        shuffle=False,
        callbacks=ours,
    )
    assert zeros(model) == 36


def test_steps_per_epoch_must_be_those_of_fit():
    ours = keras_bimp.callbacks(0.5, dense_epochs=1, steps_per_epoch=400)
    with pytest.raises(
        ValueError, match=r"`steps_per_epoch`.*400.*`fit`.* 4\b"
    ):
        fit(wrapped(), 2, ours)


def nan_weight():
    model = wrapped()
    kernel = masked(model).kernels[1].variable
    value = np.array(array(kernel))
    value[2, 1] = np.nan
    kernel.assign(value)
    return model


@pytest.mark.parametrize(
    ("make", "epochs", "arguments", "error", "text"),
    [
        (
            lambda: compile_model(dense_model()),
            4,
            {},
            ValueError,
            r"`keras_bimp\.Masked\(",
        ),
        (
            lambda: wrapped(keras.optimizers.SGD(0.0)),
            4,
            {},
            ValueError,
            "learning rate.* 0",
        ),
        (nan_weight, 4, {}, ValueError, r"nan.*kernel.*\(2, 1\)"),
        (wrapped, 2, {}, ValueError, "`dense_epochs`"),
        (wrapped, 4, {"cycles": 3}, ValueError, "`cycles`"),
        (
            wrapped,
            4,
            {"target_sparsity": 0.999},
            ValueError,
            r"sparsity.*\b72 weights",
        ),
        (
            wrapped,
            4,
            {"target_sparsity": 0.9},
            ValueError,
            "`on_collapse=.* 7 .*72 .* 11 ",
        ),
        (
            wrapped,
            4,
            {"dense_epochs": 0, "retraining": "ft"},
            ValueError,
            "`original`",
        ),
    ],
)
def test_fit_refuses_before_anything_changed(
    make, epochs, arguments, error, text
):
    model = make()
    before = [array(v) for v in model.variables]
    rate = model.optimizer._learning_rate
    ours = keras_bimp.callbacks(
        **{"target_sparsity": 0.5, "dense_epochs": 2, **arguments}
    )
    with pytest.raises(error, match=text):
        fit(model, epochs, ours)
    assert model.optimizer._learning_rate is rate
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, array(new))


def test_a_single_weight_cannot_be_pruned_away():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    model = keras_bimp.wrap(model)
    with pytest.raises(ValueError, match=r"sparsity.*\b1 weight"):
        keras_bimp.prune(model, 0.95)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"target_sparsity": 1.0}, ValueError, "`target_sparsity`"),
        ({"target_sparsity": -0.5}, ValueError, "`target_sparsity`"),
        ({"target_sparsity": float("nan")}, ValueError, "`target_sparsity`"),
        ({"target_sparsity": "0.9"}, TypeError, "`target_sparsity`"),
        ({"target_sparsity": True}, TypeError, "`target_sparsity`"),
        ({"dense_epochs": -1}, ValueError, "`dense_epochs`"),
        ({"dense_epochs": 1.5}, TypeError, "`dense_epochs`"),
        ({"cycles": 0}, ValueError, "`cycles`"),
        ({"retraining": "best"}, ValueError, "'allr'"),
        ({"allocation": "best"}, ValueError, "'global'"),
        ({"on_collapse": "best"}, ValueError, "'protect'"),
        ({"original_epochs": 0}, ValueError, "`original_epochs`"),
        ({"steps_per_epoch": 0}, ValueError, "`steps_per_epoch`"),
    ],
)
def test_callbacks_bad_arguments(arguments, error, text):
    with pytest.raises(error, match=text):
        keras_bimp.callbacks(
            **{"target_sparsity": 0.5, "dense_epochs": 1, **arguments}
        )


@pytest.mark.parametrize(
    "arguments",
    [
        {"allocation": "globl"},
        {"criterion": "size"},
        {"granularity": "filter"},
        {"on_collapse": "protct"},
    ],
)
def test_prune_bad_names(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        keras_bimp.prune(wrapped(), 0.5, **arguments)


def test_prune_refuses_an_optimizer_of_another_model():
    other = wrapped()
    fit(other, 1)
    model = wrapped()
    before = [array(v) for v in model.weights]
    with pytest.raises(ValueError, match="`optimizer`"):
        keras_bimp.prune(model, 0.5, optimizer=other.optimizer)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("target", [1.0, -0.1, float("nan"), "0.5", True])
def test_prune_bad_target(target):
    with pytest.raises((TypeError, ValueError), match="`target_sparsity`"):
        keras_bimp.prune(wrapped(), target)


@pytest.mark.parametrize("make", [dense_model, lambda: "model"])
def test_prune_refuses_what_is_not_wrapped(make):
    with pytest.raises(ValueError, match=r"keras_bimp\.wrap\("):
        keras_bimp.prune(make(), 0.5)
