"""The automatic choices of `callbacks` and `Plan.bimp`."""

import keras
import numpy as np
import pytest
from helpers import TOTAL
from helpers import array
from helpers import compile_model
from helpers import fit
from helpers import kernels_and_masks
from helpers import lines_with
from helpers import masked
from helpers import wrapped
from helpers import zeros
from keras import layers

import keras_bimp
from keras_bimp import Plan
from keras_bimp._src.plan import RETRAINING


def bimp(target=0.95, epochs=20, steps=79, **kwargs):
    return Plan.bimp(target, epochs, steps, peak=0.1, **kwargs)


def lengths(plan):
    return [phase.epochs for phase in plan.phases]


@pytest.mark.parametrize(
    ("target", "epochs", "steps", "expected"),
    [
        # A quarter dense, five cycles of equal length.
        (0.98, 20, 79, [5, 3, 3, 3, 3, 3]),
        (0.9, 60, 23, [15, 9, 9, 9, 9, 9]),
        (0.999, 200, 391, [50, 30, 30, 30, 30, 30]),
        # Five would leave the last cycle four times the epochs of the others.
        (0.98, 10, 94, [2, 2, 2, 2, 2]),
        # A cycle has at least 100 iterations: here 300 and 299 are left.
        (0.98, 40, 10, [10, 10, 10, 10]),
        (0.98, 31, 13, [8, 11, 12]),
        (0.98, 20, 1, [5, 15]),
        # A pruning removes at least a third of what is left: (2/3)^2 is 0.44.
        (0.05, 20, 79, [5, 15]),
        (0.55, 20, 79, [5, 15]),
        (0.56, 20, 79, [5, 7, 8]),
        (1 - (2 / 3) ** 2, 20, 79, [5, 7, 8]),
        (0.8, 20, 79, [5, 5, 5, 5]),
        # The minimum number of epochs.
        (0.95, 2, 1000, [1, 1]),
        (0.95, 3, 1000, [1, 1, 1]),
        (0.95, 5, 1000, [1, 1, 1, 1, 1]),
    ],
)
def test_the_epochs_follow_from_target_length_and_steps(
    target, epochs, steps, expected
):
    plan = bimp(target, epochs, steps)
    assert lengths(plan) == expected
    assert plan.target_sparsity == target
    assert [phase.prunes for phase in plan.phases] == [False] + [True] * (
        len(expected) - 1
    )


@pytest.mark.parametrize("epochs", [2, 3, 7, 19, 50, 333])
@pytest.mark.parametrize("target", [0.0, 0.3, 0.9, 0.9999])
@pytest.mark.parametrize("steps", [1, 60, 5000])
def test_every_budget_is_laid_out_to_the_last_epoch(epochs, target, steps):
    plan = bimp(target, epochs, steps)
    dense, *cycles = lengths(plan)
    assert dense >= 1
    assert dense + sum(cycles) == epochs
    assert 1 <= len(cycles) <= 5
    assert max(cycles) <= 2 * min(cycles)
    assert len(cycles) == 1 or sum(cycles) * steps >= 100 * len(cycles)


def test_what_is_given_stays():
    assert lengths(bimp(dense_epochs=8)) == [8, 2, 2, 2, 2, 4]
    assert lengths(bimp(cycles=2)) == [5, 7, 8]
    assert lengths(bimp(epochs=6, cycles=5)) == [1, 1, 1, 1, 1, 1]
    assert bimp(retraining="clr").retraining is RETRAINING["clr"]
    asked = {"dense_epochs": 8, "cycles": 2, "retraining": "clr"}
    assert bimp(**asked).chosen == ()


@pytest.mark.parametrize(
    ("dense_epochs", "expected"),
    [(None, "llr"), (9, "llr"), (10, "allr"), (15, "allr"), (0, "allr")],
)
def test_a_short_dense_phase_is_followed_by_the_largest_rate(
    dense_epochs, expected
):
    plan = bimp(dense_epochs=dense_epochs)
    assert plan.retraining is RETRAINING[expected]


def test_the_plan_says_what_was_chosen():
    text = str(bimp())
    assert (
        len(
            lines_with(
                text, "chosen", "dense_epochs=5", "cycles=5", "retraining='llr'"
            )
        )
        == 1
    )
    text = str(bimp(cycles=2, retraining="clr"))
    (line,) = lines_with(text, "chosen", "dense_epochs=5")
    assert "cycles" not in line
    assert "retraining" not in line
    assert not lines_with(
        str(bimp(dense_epochs=5, cycles=2, retraining="llr")), "chosen"
    )


def test_what_goes_back_into_the_dense_phase_finds_enough_of_it():
    for retraining in ("lrw", "wr"):
        for target in (0.1, 0.95):
            plan = bimp(target, retraining=retraining)
            dense, *cycles = lengths(plan)
            assert dense == 10
            assert max(cycles) <= dense


def test_all_phases_are_as_long_with_cycles_of_renda():
    # 14 cycles to 95%.
    assert lengths(bimp(epochs=45, cycles="renda")) == [3] * 15
    with pytest.raises(ValueError, match=r"`epochs`.* 14 .*epochs=46"):
        bimp(epochs=46, cycles="renda")


def test_a_pretrained_model_gets_cycles_and_tells_what_is_not_known():
    plan = bimp(dense_epochs=0)
    assert lengths(plan) == [4, 4, 4, 4, 4]
    assert plan.chosen == ("cycles=5", "retraining='allr'")
    assert lines_with(str(plan), "d2", "unknown", "original_epochs")
    # The learning rates determine its length, 40 epochs.
    plan = bimp(dense_epochs=0, original=np.full(40 * 79, 0.1))
    assert plan.original_epochs == 40
    assert lines_with(str(plan), "T", "d2", "40")
    plan = bimp(dense_epochs=0, original=[0.1] * 79, original_epochs=7)
    assert plan.original_epochs == 7


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"epochs": 1}, "`epochs`.* 2.*`dense_epochs=0`.*epochs=1"),
        ({"epochs": 4, "cycles": 4}, "`cycles`.*cycles=4, epochs=4"),
        ({"cycles": "automatic"}, "`cycles`.*'auto'"),
        ({"retraining": "automatic"}, "'allr'"),
    ],
)
def test_what_cannot_be_chosen_is_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        bimp(**arguments)


def callbacks(target_sparsity, **kwargs):
    return keras_bimp.callbacks(target_sparsity, verbose=0, **kwargs)


@pytest.mark.parametrize(
    ("epochs", "target", "text"),
    [
        (1, 0.5, "`epochs`.*`dense_epochs=0`"),
        (8, 0.999, rf"sparsity.*\b{TOTAL} weights"),
    ],
)
def test_fit_refuses_before_anything_changed(epochs, target, text):
    model = wrapped()
    before = [array(v) for v in model.variables]
    with pytest.raises(ValueError, match=text):
        fit(model, epochs, callbacks(target))
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, array(new))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        # An original training implies a pretrained model.
        ({"original": [0.1]}, "`dense_epochs`.*`original`.* 0"),
        ({"original_epochs": 3}, "`dense_epochs`.*`original`.* 0"),
        ({"target_sparsity": "0.9"}, "`target_sparsity`"),
        ({"allocation": "automatic"}, "`allocation`.*'global'"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises((TypeError, ValueError), match=text):
        callbacks(**{"target_sparsity": 0.5, **arguments})


def test_nothing_but_a_target_is_needed():
    model = wrapped()
    ours = callbacks(0.75)
    history = fit(model, 8, ours).history
    assert zeros(model) == round(0.75 * TOTAL)
    assert lengths(ours[0].plan) == [2, 6]
    assert history["cycle"] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert set(ours[0].plan.chosen) == {
        "dense_epochs=2",
        "cycles=1",
        "retraining='llr'",
        "allocation='global'",
    }


def lamp_masks(kernels, left):
    """LAMP by its definition: w^2 over the sum of all not smaller."""
    scores = []
    for kernel in kernels:
        squares = kernel.astype("float64").ravel() ** 2
        for u in squares:
            scores.append(u / squares[squares >= u].sum())
    threshold = np.sort(scores)[-left]
    kept = np.array(scores) >= threshold
    ends = np.cumsum([kernel.size for kernel in kernels])[:-1]
    return [
        mask.reshape(kernel.shape)
        for mask, kernel in zip(np.split(kept, ends), kernels, strict=True)
    ]


def global_masks(kernels, left):
    magnitudes = np.concatenate([np.abs(k).ravel() for k in kernels])
    threshold = np.sort(magnitudes)[-left]
    return [np.abs(kernel) >= threshold for kernel in kernels]


@pytest.mark.parametrize(
    ("target", "arguments", "expected"),
    [
        (0.9, {}, lamp_masks),
        (0.9, {"allocation": "global"}, global_masks),
        (0.8, {}, global_masks),
    ],
)
def test_from_90_percent_on_no_layer_is_cheap(target, arguments, expected):
    model = wrapped()
    # Another scale, which says nothing about the importance of its weights.
    first = masked(model).kernels[0].variable
    first.assign(5 * array(first))
    before = []
    fit(
        model,
        2,
        [
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: before.append(
                    [kernel for kernel, _ in kernels_and_masks(model)]
                )
            ),
            *callbacks(target, on_collapse="ignore", **arguments),
        ],
    )
    left = TOTAL - round(target * TOTAL)
    masks = [mask.astype(bool) for _, mask in kernels_and_masks(model)]
    assert sum(mask.sum() for mask in masks) == left
    for mask, one in zip(masks, expected(before[0], left), strict=True):
        np.testing.assert_array_equal(mask, one)


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        (0.5, {"granularity": "2:4"}),
        (0.9, {"criterion": "random"}),
        (0.9, {"granularity": "filter"}),
    ],
)
def test_what_lamp_cannot_do_is_left_to_what_is_usual(target, arguments):
    (ours,) = callbacks(target, **arguments)
    (usual,) = callbacks(target, allocation=None, **arguments)
    assert ours._policy.allocation is usual._policy.allocation


def test_one_of_four_is_pruned_to_at_once():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(3)])
    model = compile_model(keras_bimp.wrap(model))
    x, y = np.ones((120, 8), "float32"), np.zeros(120)
    (ours,) = callbacks(0.75, granularity="1:4")
    model.fit(x, y, epochs=4, batch_size=1, callbacks=[ours], verbose=0)
    assert lengths(ours.plan) == [1, 3]
    assert "cycles=1" in ours.plan.chosen
    assert zeros(model) == 18


def test_a_plan_is_carried_out_as_it_is():
    plan = bimp(0.75, 8, 4, dense_epochs=4, cycles=2, retraining="clr")
    (ours,) = callbacks(plan)
    fit(wrapped(), 8, [ours])
    assert lengths(ours.plan) == [4, 2, 2]
    assert ours.plan.chosen == ("allocation='global'",)
    with pytest.raises(ValueError, match="`cycles`"):
        callbacks(plan, cycles=2)
