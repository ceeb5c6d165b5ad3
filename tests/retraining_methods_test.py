"""All retraining schedules in a real `fit`."""

import functools

import keras
import numpy as np
import pytest
from helpers import STEPS
from helpers import TOTAL
from helpers import RecordingSGD
from helpers import SaveAfter
from helpers import array
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import kernels_and_masks
from helpers import rates_of
from helpers import recorded
from helpers import wrapped
from helpers import zeros

import keras_bimp
from keras_bimp._src import schedules
from keras_bimp._src.plan import RETRAINING

COSINE = keras.optimizers.schedules.CosineDecay(0.1, 100, alpha=0.1)
VARIANTS = {
    "plain": ({}, {}),
    "steps_per_execution": ({}, {"steps_per_execution": 8}),
    "gradient_accumulation": ({"gradient_accumulation_steps": 4}, {}),
    "loss_scale": ({}, {}),
    "jit_compile": ({}, {"jit_compile": True}),
}


FEW = ("slr", "clr", "llr", "allr", "stepped")


def callbacks(retraining, **kwargs):
    arguments = {"target_sparsity": 0.8, "verbose": 0, "data": data()}
    return keras_bimp.callbacks(
        **{**arguments, "retraining": retraining, **kwargs}
    )


def test_all_names_of_the_contract_are_known():
    assert set(RETRAINING) == {
        "ft", "lrw", "slr", "clr", "llr", "allr", "accallr", "allr_d1",
        "allr_d2", "constant", "stepped", "cosine", "linear", "wr",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("variant", "retraining"),
    [("steps_per_execution", name) for name in FEW]
    + [
        pytest.param(variant, name, marks=pytest.mark.slow)
        for variant in VARIANTS
        for name in RETRAINING
        if (variant == "steps_per_execution" and name not in FEW)
        or (variant != "steps_per_execution" and name in ("allr", "slr", "clr"))
    ],
)
def test_rates_inside_the_compiled_step_are_the_plans(variant, retraining):
    check_rates(variant, retraining)


@pytest.mark.every_backend
@pytest.mark.parametrize("retraining", ["clr", "accallr"])
def test_so_they_are_on_every_backend(retraining):
    check_rates("plain", retraining)


def check_rates(variant, retraining):
    optimizer_arguments, compile_arguments = VARIANTS[variant]
    optimizer = RecordingSGD(0.1, momentum=0.9, **optimizer_arguments)
    if variant == "loss_scale":
        optimizer = keras.optimizers.LossScaleOptimizer(
            optimizer, initial_scale=2.0
        )
    model = wrapped(optimizer, **compile_arguments)
    (callback,) = callbacks(retraining, dense_epochs=4, cycles=3)
    fit(model, 14, [callback], batch_size=8)
    rates = recorded(optimizer)[: 14 * 8]
    expected = rates_of(callback)
    assert len(expected) == len(rates)
    updates = np.arange(len(rates))
    if variant == "gradient_accumulation":
        updates = updates[3::4]
    np.testing.assert_allclose(
        rates[updates], expected[updates], rtol=1e-6, atol=1e-9
    )
    assert (rates > -1).sum() == len(updates)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("saved_after", "retraining"),
    # In mid-cycle; and between two cycles, for methods with state.
    [(4, name) for name in RETRAINING] + [(6, "wr"), (6, "accallr")],
)
def test_saved_in_mid_run_it_goes_on_as_if_undisturbed(
    tmp_path, saved_after, retraining
):
    check_going_on(tmp_path, saved_after, retraining)


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.parametrize("retraining", ["accallr", "wr"])
def test_so_it_does_on_every_backend(tmp_path, retraining):
    check_going_on(tmp_path, 6, retraining)


def check_going_on(tmp_path, saved_after, retraining):
    kept = {"rewind_to": tmp_path / "kept"} if retraining == "wr" else {}

    def ours():
        # The original training is so long that d1 counts, except for `d2`.
        return callbacks(
            retraining,
            dense_epochs=3,
            cycles=2,
            original_epochs=None if retraining == "allr_d2" else 1000,
            **kept,
        )

    undisturbed = wrapped(RecordingSGD(0.1, momentum=0.9))
    (callback,) = ours()
    save = SaveAfter(saved_after, tmp_path / "model.keras")
    history = fit(undisturbed, 9, [callback, save]).history
    expected = rates_of(callback)
    np.testing.assert_allclose(
        recorded(undisturbed.optimizer)[: 9 * STEPS],
        expected,
        rtol=1e-6,
        atol=1e-9,
    )
    model = keras.models.load_model(save.path)
    assert int(model.optimizer.iterations) == saved_after * STEPS
    (again,) = ours()
    rest = fit(model, 9, [again], initial_epoch=saved_after).history
    assert rest["learning_rate"] == history["learning_rate"][saved_after:]
    assert rest["loss"] == history["loss"][saved_after:]
    for theirs, mine in zip(
        undisturbed.weights + undisturbed.optimizer.variables,
        model.weights + model.optimizer.variables,
        strict=True,
    ):
        np.testing.assert_array_equal(array(theirs), array(mine))


def test_every_name_has_the_rates_of_its_formula():
    # 40 iterations at 0.4, then 20 at 0.1: T = 6 epochs, T_rt = 3.
    original = np.repeat([0.4, 0.1], [40, 20])
    k = np.arange(27)
    ramp = 0.4 * (1 - np.cos(np.pi * np.arange(3) / 3)) / 2
    line = np.concatenate([ramp, 0.4 * (1 - k / 27)])
    cosine = np.concatenate([ramp, 0.1 + 0.15 * (1 + np.cos(np.pi * k / 27))])
    expected = {
        "ft": [0.1] * 30,
        "lrw": [0.4] * 10 + [0.1] * 20,
        "wr": [0.4] * 10 + [0.1] * 20,
        "slr": [*ramp, *[0.4] * 18, *[0.1] * 9],
        "clr": cosine,
        "llr": line,
        "constant": [0.4] * 30,
        "stepped": [0.4] * 20 + [0.1] * 10,
        "cosine": 0.2 * (1 + np.cos(np.pi * np.arange(30) / 30)),
        "linear": 0.4 * (1 - np.arange(30) / 30),
    }
    adaptive = {"allr", "accallr", "allr_d1", "allr_d2"}
    assert set(expected) | adaptive == set(RETRAINING)
    for name in RETRAINING:
        plan = keras_bimp.Plan.bimp(
            0.9,
            epochs=3,
            steps_per_epoch=10,
            dense_epochs=0,
            peak=0.4,
            retraining=name,
            original=original,
            original_epochs=6,
        )
        factor = 0.5 if name in adaptive else 1.0
        np.testing.assert_allclose(
            plan.values([0.5]),
            factor * np.asarray(expected.get(name, line)),
            rtol=1e-12,
            atol=1e-15,
            err_msg=name,
        )


def first_peaks(retraining, **kwargs):
    """Returns the callback, and the largest rate of each of two cycles."""
    model = wrapped(RecordingSGD(0.1, momentum=0.9))
    (callback,) = callbacks(retraining, dense_epochs=4, cycles=2, **kwargs)
    fit(model, 12, [callback])
    rates = recorded(model.optimizer)
    return callback, rates[16:32].max(), rates[32:48].max()


@pytest.mark.slow
def test_the_ablations_look_at_one_factor_each():
    # Long cycles: d2 = 1/2 exceeds d1 after mild pruning.
    mild = {"target_sparsity": 0.3, "original_epochs": 8}
    _, *both = first_peaks("allr", **mild)
    _, *length = first_peaks("allr_d2", **mild)
    np.testing.assert_allclose(length, 0.1 * 4 / 8, rtol=1e-6)
    np.testing.assert_allclose(both, length, rtol=1e-6)
    callback, *change = first_peaks("allr_d1", **mild)
    expected = [
        0.1 * p.norm_drop / np.sqrt(p.pruned_fraction)
        for p in callback.prunings
    ]
    np.testing.assert_allclose(change, expected, rtol=1e-6)
    assert max(change) < 0.04


def test_accallr_looks_at_the_accuracy_lost():
    model = wrapped(RecordingSGD(0.1, momentum=0.9))
    measured = []

    def measure():
        x, y = data()
        logs = model.evaluate(x, y, verbose=0, return_dict=True)
        measured.append(logs["accuracy"])

    class Measure(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.before = self.model.non_trainable_variables
            self.before = [array(v) for v in self.before if v.ndim == 1]
            if epoch == 3:
                measure()

        def on_epoch_begin(self, epoch, logs=None):
            if epoch in (4, 6):
                measure()
                after = self.model.non_trainable_variables
                after = [array(v) for v in after if v.ndim == 1]
                for one, other in zip(self.before, after, strict=True):
                    np.testing.assert_array_equal(one, other)

    (callback,) = callbacks(
        "accallr", dense_epochs=4, cycles=2, original_epochs=1000
    )
    history = fit(model, 8, [callback, Measure()]).history
    dense, first, second = measured
    lost = [(dense - accuracy) / dense for accuracy in (first, second)]
    assert min(lost) > 0.02
    assert lost[0] != lost[1]
    np.testing.assert_allclose(history["discount"][4::2], lost, rtol=1e-6)
    peak = recorded(model.optimizer)[16:24].max()
    assert peak == pytest.approx(0.1 * lost[0], rel=1e-6)


@pytest.mark.slow
def test_accallr_of_part_of_the_data():
    x, y = data()

    def discount(part, fraction):
        ours = callbacks(
            "accallr",
            dense_epochs=4,
            original_epochs=1000,
            data=part,
            data_fraction=fraction,
        )
        return fit(wrapped(), 5, ours).history["discount"][-1]

    # Half of 64 samples; 3 (of 2.4) batches of 8.
    whole = discount((x, y), 1.0)
    half = discount((x[:32], y[:32]), 1.0)
    assert discount((x, y), 0.5) == half != whole
    assert discount(Batches(8), 0.3) == discount((x[:24], y[:24]), 1.0)


class Batches(keras.utils.PyDataset):
    def __init__(self, size):
        super().__init__()
        self.size = size

    def __len__(self):
        return 64 // self.size

    def __getitem__(self, index):
        part = slice(index * self.size, (index + 1) * self.size)
        return tuple(array[part] for array in data())


def test_accallr_warns_where_the_dense_model_is_not_known():
    model = wrapped()
    keras_bimp.prune(model, 0.5)
    with pytest.warns(UserWarning, match=r"accuracy.*50\.00%"):
        fit(model, 3, callbacks("accallr", dense_epochs=1))


def test_accallr_leaves_the_metrics_of_the_epoch_alone():
    def history(retraining):
        ours = callbacks(retraining, target_sparsity=0, dense_epochs=1)
        return fit(wrapped(keras.optimizers.SGD(0.1)), 2, ours).history

    # Nothing is pruned: d2 = 1 for both.
    one, other = history("accallr"), history("allr_d2")
    assert one["loss"] == other["loss"]
    assert one["accuracy"] == other["accuracy"]


def test_rendas_cycles_prune_a_fifth_each_and_retrain_as_long():
    model = wrapped()
    (callback,) = callbacks(
        "lrw", target_sparsity=0.5, dense_epochs=2, cycles="renda"
    )
    history = fit(model, 2 + 4 * 2, [callback]).history
    left = [72]
    for _ in range(3):
        left.append(left[-1] - round(0.2 * left[-1]))
    left.append(36)
    pruned = 1 - np.repeat(left, 2) / 72
    np.testing.assert_allclose(history["sparsity"], pruned)
    assert zeros(model) == 36
    with pytest.raises(ValueError, match=r"`epochs`.*'renda'.* 4 .* 8 "):
        fit(wrapped(), 11, [callback])


def test_schedules_classes_and_partial_arguments_as_retraining():
    x = keras_bimp.Plan.bimp
    arguments = {
        "target_sparsity": 0.8, "epochs": 6, "steps_per_epoch": 10,
        "dense_epochs": 3, "peak": 0.1,
    }  # fmt: skip
    dense = schedules.Linear(0.1, 30).values()
    for retraining, expected in (
        (
            functools.partial(schedules.Cosine, peak=0.03),
            schedules.Cosine(0.03, 30),
        ),
        (
            functools.partial(schedules.SLR, [0.3, 0.1], warmup=0.5),
            schedules.SLR([0.3, 0.1], 30, warmup=0.5),
        ),
        (schedules.CLR, schedules.CLR(dense, 30)),
        (schedules.LLR(0.3, 30), schedules.LLR(0.3, 30)),
        (lambda steps: schedules.Cosine(0.2, steps), schedules.Cosine(0.2, 30)),
        (COSINE, schedules.Recorded((COSINE, 30))),
    ):
        values = x(**arguments, retraining=retraining).values()
        np.testing.assert_allclose(values[30:], expected.values(), rtol=1e-6)
    with pytest.raises(ValueError, match=r"`retraining`.*\b30\b.*\b31\b"):
        x(**arguments, retraining=schedules.LLR(0.3, 31))
    with pytest.raises(ValueError, match=r"`retraining`.*batch_size"):
        x(**arguments, retraining=lambda batch_size: None)
    with pytest.raises(ValueError, match=r"`retraining`.*'lrw'.*'lwr'"):
        callbacks("lwr", dense_epochs=2)


@pytest.mark.parametrize(
    ("retraining", "arguments", "text"),
    [
        ("lrw", {"dense_epochs": 2}, "`steps`.*`original`.*steps=12.* 8 "),
        ("wr", {"dense_epochs": 2}, "3 epochs.*dense_epochs=2"),
        ("allr_d2", {"dense_epochs": 0}, "`original_epochs`"),
        ("accallr", {"dense_epochs": 0}, "`original_epochs`"),
        ("lrw", {"dense_epochs": 0}, "`original`"),
        ("llr", {"dense_epochs": 0, "cycles": "renda"}, "`original_epochs`"),
    ],
)
def test_fit_refuses_what_cannot_be_planned(retraining, arguments, text):
    model = wrapped()
    before = [array(v) for v in model.variables]
    rate = model.optimizer._learning_rate
    with pytest.raises(ValueError, match=text):
        fit(model, 5, callbacks(retraining, **arguments))
    assert model.optimizer._learning_rate is rate
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, array(new))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"retraining": "accallr", "data": None}, "`data`.*'accallr'"),
        ({"data": iter([])}, "`data`.*PyDataset.*list_iterator"),
        ({"data": [data()]}, "`data`.*PyDataset.*list"),
        ({"data": data()[:1]}, "`data`.*tuple of 1"),
        ({"data_fraction": 0.0}, "`data_fraction`"),
        ({"data_fraction": 1.5}, "`data_fraction`"),
        ({"cycles": "rendas"}, "'renda'"),
        ({"cycles": 1.5}, "`cycles`"),
        ({"retraining": "allr", "rewind_to": "x"}, "`rewind_to`.*'wr'.*'x'"),
        (
            {"retraining": "wr", "dense_epochs": 0},
            r"`rewind_to`.*\.weights\.h5.*None",
        ),
        (
            {"retraining": "wr", "rewind_to": "no.keras"},
            r"`rewind_to`.*no\.keras",
        ),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises((TypeError, ValueError), match=text):
        callbacks(**{"retraining": "allr", "dense_epochs": 2, **arguments})


class Endless:
    """Batches of unknown number."""

    def __iter__(self):
        yield data()


def test_accallr_needs_an_accuracy():
    model = keras_bimp.wrap(dense_model())
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"`metrics=\['accuracy'\]`"):
        fit(model, 2, callbacks("accallr", dense_epochs=1))
    ours = callbacks(
        "accallr",
        dense_epochs=1,
        data=Endless(),
        data_fraction=0.5,
    )
    with pytest.raises(ValueError, match=r"`data_fraction`.*`data`.*0\.5"):
        fit(wrapped(), 2, ours)


class Fail(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise RuntimeError("power cut")


def test_two_retraining_callbacks_in_one_fit_are_refused():
    model = wrapped()
    rate = model.optimizer._learning_rate
    one = callbacks("allr", dense_epochs=1)
    other = callbacks("ft", dense_epochs=1, target_sparsity=0.5)
    for pair in ([*one, *other], [*one, *one]):
        before = [array(v) for v in model.weights]
        with pytest.raises(
            ValueError, match=r"`callbacks`.*`keras_bimp\.callbacks`"
        ):
            fit(model, 3, pair)
        assert float(model.optimizer.learning_rate) == pytest.approx(0.1)
        assert isinstance(model.optimizer._learning_rate, type(rate))
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
    # Neither they nor a fit that dies leave anything behind.
    with pytest.raises(RuntimeError, match="power cut"):
        fit(model, 3, [*one, Fail()])
    fit(model, 3, other)
    fit(model, 3, one)
    assert zeros(model) == round(0.8 * TOTAL)


def test_a_callback_used_again_starts_afresh():
    (callback,) = callbacks("wr", dense_epochs=3, cycles=2)
    results = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        model = wrapped(RecordingSGD(0.1, momentum=0.9))
        fit(model, 7, [callback])
        results.append(kernels_and_masks(model))
        assert len(callback.prunings) == 2
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
