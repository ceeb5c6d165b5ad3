import dataclasses

import keras
import numpy as np
import pytest
from helpers import lines_with

from keras_bimp import Plan
from keras_bimp._src import schedules


def bimp(**kwargs):
    arguments = {
        "target_sparsity": 0.9,
        "epochs": 20,
        "steps_per_epoch": 7,
        "dense_epochs": 10,
        "peak": 0.1,
        "cycles": 3,
    }
    return Plan.bimp(**{**arguments, **kwargs})


def test_cycles_share_the_budget_and_the_last_takes_the_rest():
    plan = bimp(epochs=110)
    assert [p.epochs for p in plan.phases] == [10, 33, 33, 34]
    assert [p.start_epoch for p in plan.phases] == [0, 10, 43, 76]
    assert plan.epochs == 110
    assert [plan.phase_at(e) for e in (0, 9, 10, 42, 43, 109)] == [
        0, 0, 1, 1, 2, 3,
    ]  # fmt: skip


def test_sparsity_is_geometric_and_counts_are_exact():
    plan = bimp()
    left = [1 - p.sparsity for p in plan.phases]
    np.testing.assert_allclose(left, 0.1 ** (np.arange(4) / 3), rtol=1e-12)
    assert plan.phases[-1].sparsity == 0.9
    assert plan.pruned(1528) == [0, 819, 1199, 1375]


def test_values_join_the_phases():
    plan = bimp(retraining="llr")
    expected = [schedules.Linear(0.1, 70).values()]
    expected += [schedules.LLR(0.1, n * 7).values() for n in (3, 3, 4)]
    np.testing.assert_array_equal(plan.values(), np.concatenate(expected))


def test_a_pretrained_model_has_no_dense_phase():
    plan = bimp(dense_epochs=0, original_epochs=40)
    assert [p.name for p in plan.phases] == ["cycle 1", "cycle 2", "cycle 3"]
    assert plan.original_epochs == 40
    assert bimp(dense_epochs=0).original_epochs is None
    assert bimp().original_epochs == 10


def test_ft_and_stepped_use_the_original_rates():
    original = np.repeat([0.1, 0.01], 50)
    plan = bimp(dense_epochs=0, retraining="ft", original=original, epochs=3)
    np.testing.assert_allclose(plan.values(), 0.01)
    plan = bimp(
        dense_epochs=0, retraining="stepped", original=original, cycles=1
    )
    assert plan.values().tolist() == [0.1] * 70 + [0.1 * (0.01 / 0.1)] * 70


def test_ft_after_a_dense_phase_uses_that_phases_last_rate():
    step = keras.optimizers.schedules.PiecewiseConstantDecay([50], [0.1, 0.02])
    plan = bimp(retraining="ft", dense_schedule=step)
    np.testing.assert_allclose(plan.values()[70:], 0.02, rtol=1e-6)


@pytest.mark.parametrize(
    ("target", "cycles"),
    [(0.9, 11), (0.95, 14), (0.98, 18), (0.99, 21), (0.36, 2), (0.1, 1)],
)
def test_rendas_cycles_are_those_of_the_paper(target, cycles):
    arguments = {"target_sparsity": target, "cycles": "renda"}
    plan = bimp(**arguments, epochs=10 + 10 * cycles)
    assert [p.epochs for p in plan.phases] == [10] * (1 + cycles)
    left = np.array([1 - p.sparsity for p in plan.phases])
    np.testing.assert_allclose(left[:-1], 0.8 ** np.arange(cycles), rtol=1e-12)
    assert plan.target_sparsity == target
    assert left[-1] >= 0.8 * left[-2] - 1e-12
    with pytest.raises(
        ValueError, match=rf"`epochs`.*'renda'.* {cycles} .* {10 * cycles} "
    ):
        bimp(**arguments, epochs=11 + 10 * cycles)
    pretrained = bimp(
        **arguments, dense_epochs=0, epochs=4 * cycles, original_epochs=4
    )
    assert [p.epochs for p in pretrained.phases] == [4] * cycles


def test_a_callable_is_called_for_each_cycle():
    calls = []

    def retraining(*, original, peak, steps, discount):
        calls.append((len(original), peak, steps, float(discount.value)))
        return schedules.ALLR(peak, steps, discount)

    plan = bimp(retraining=retraining)
    assert calls == [(70, 0.1, 21, 1.0), (70, 0.1, 21, 1.0), (70, 0.1, 28, 1.0)]
    assert plan.values().max() == pytest.approx(0.1)
    rates = plan.values([0.5])
    assert rates[70:91].max() == pytest.approx(0.05)
    assert rates[91:].max() == pytest.approx(0.1)


def test_a_plan_is_data():
    plan = bimp()
    assert not [
        value
        for part in (plan, *plan.phases)
        for value in vars(part).values()
        if isinstance(value, keras.Variable)
    ]
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.phases[0].epochs = 3


def test_the_table_tells_everything():
    plan = dataclasses.replace(
        bimp(),
        prunable=(("a/kernel", 1000), ("b/kernel", 528)),
        skipped=(("c/kernel", "frozen"),),
        peak_source="learning rate of SGD",
    )
    text = str(plan)
    for figures in (
        ("dense", "1-10", "70", "0.00%", "1,528", "0.1", "0.0014"),
        ("cycle 3", "17-20", "28", "78.46%", "90.00%", "153", "0.1"),
        ("2", "kernels", "1,528"),
        ("c/kernel", "frozen"),
        ("0.1", "learning rate of SGD"),
        ("T", "d2", "10"),
    ):
        assert len(lines_with(text, *figures)) == 1
    # The discount if the dense phase is not known.
    assert lines_with(str(bimp(dense_epochs=0)), "T", "d2", "original_epochs")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"target_sparsity": 1.0}, ValueError, "`target_sparsity`"),
        ({"target_sparsity": True}, TypeError, "`target_sparsity`"),
        ({"epochs": 0}, ValueError, "`epochs`"),
        ({"epochs": 10.0}, TypeError, "`epochs`"),
        ({"steps_per_epoch": 0}, ValueError, "`steps_per_epoch`"),
        ({"dense_epochs": -1}, ValueError, "`dense_epochs`"),
        ({"dense_epochs": 20}, ValueError, "`dense_epochs`"),
        ({"cycles": 0}, ValueError, "`cycles`"),
        ({"cycles": 11}, ValueError, "`cycles`.*cycles=11.* 10"),
        ({"peak": 0.0}, ValueError, "`peak`"),
        ({"original_epochs": -3}, ValueError, "`original_epochs`"),
        ({"original_epochs": "x"}, TypeError, "`original_epochs`"),
        ({"dense_schedule": 0.1}, TypeError, "`dense_schedule`"),
        ({"retraining": lambda **k: 0.1}, TypeError, "`retraining`"),
        ({"original": "x", "retraining": "ft"}, ValueError, "`original`"),
        ({"retraining": "best"}, ValueError, "`retraining`.*'ft'.*'wr'"),
        ({"dense_epochs": 0, "retraining": "ft"}, ValueError, "`original`"),
        ({"cycles": "ronda"}, ValueError, "'renda'"),
        (
            {"cycles": "renda", "dense_epochs": 0, "original_epochs": 2.5},
            ValueError,
            r"`original_epochs`.*2\.5",
        ),
    ],
)
def test_bad_arguments(arguments, error, text):
    with pytest.raises(error, match=text):
        bimp(**arguments)
