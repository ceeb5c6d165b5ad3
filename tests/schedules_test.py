import json

import keras
import numpy as np
import pytest
from helpers import GOLDEN

from keras_bimp._src import schedules

GOLDEN_RATES = np.load(GOLDEN / "lr_schedules.npz")
GOLDEN_INFO = json.loads((GOLDEN / "lr_schedules.json").read_text())


METHODS = ("FT", "LRW", "SLR", "CLR", "LLR", "ALLR")


def golden_rows():
    """Yields (key, our schedule that must return these rates)."""
    for key in GOLDEN_RATES.files:
        setting, *rest = key.split("/")
        if rest == ["orig"]:
            continue
        original = GOLDEN_RATES[f"{setting}/orig"]
        per_epoch = GOLDEN_INFO["settings"][setting]["n"]
        if rest[0] == "tuned":
            _, name, epochs, peak, warmup = rest
            arguments = {
                "peak": float(peak.removeprefix("init")),
                "steps": int(epochs.removeprefix("T")) * per_epoch,
                "warmup": float(warmup.removeprefix("w")),
            }
            if name == "stepped":
                arguments["original"] = original
            yield key, getattr(schedules, name.capitalize())(**arguments)
            continue
        _, name, *_ = rest
        cycle = int(rest[4].removeprefix("cycle")) if len(rest) > 4 else 1
        info = GOLDEN_INFO["info"]["/".join(key.split("/")[:5])][cycle - 1]
        arguments = {"steps": info["epochs"] * per_epoch}
        if name in ("FT", "LRW", "SLR", "CLR"):
            arguments["original"] = original
        else:
            arguments["peak"] = original.max()
        if name == "ALLR":
            *_, arguments["discount"] = schedules.discount_factor(
                info["relative_norm_drop"],
                info["prune_fraction"],
                info["epochs"],
                GOLDEN_INFO["settings"][setting]["T"],
            )
        yield key, getattr(schedules, name)(**arguments)


def assert_matches_the_reference(rates, warm, key):
    """Compares rates; after a warm-up, the reference repeats the peak."""
    golden = GOLDEN_RATES[key]
    assert len(rates) == len(golden)
    shift = 1 if warm else 0
    expected = np.concatenate([golden[:warm], golden[warm + shift :]])
    np.testing.assert_allclose(
        rates[: len(expected)], expected, rtol=0, atol=1e-12, err_msg=key
    )


# Its original falls to 0.17% of its peak, so that fine-tuning there warns.
@pytest.mark.filterwarnings("ignore:Fine-tuning at 0.00017")
def test_all_rates_match_the_reference():
    rows = list(golden_rows())
    assert len(rows) == len(GOLDEN_RATES.files) - 2 == 118
    for key, schedule in rows:
        warm = int(schedule.warmup * schedule.steps)
        assert_matches_the_reference(schedule.values(), warm, key)


@pytest.mark.filterwarnings("ignore:Fine-tuning at 0.00017")
@pytest.mark.parametrize("shift", [-1, 1])
def test_rates_off_by_one_iteration_would_not_match(shift):
    matched = set()
    for key, schedule in golden_rows():
        rates = np.roll(schedule.values(), shift)
        warm = int(schedule.warmup * schedule.steps)
        try:
            assert_matches_the_reference(rates, warm, key)
        except AssertionError:
            continue
        matched.add(key)
    # Only a constant looks the same, such as the tail of a stepped original.
    constant = {key for key, s in golden_rows() if np.ptp(s.values()) == 0}
    assert matched == constant


ALL = {
    "constant": schedules.Constant(0.3, 37, warmup=0.2),
    "linear": schedules.Linear(0.3, 37),
    "stepped": schedules.Stepped([0.2, 0.2, 0.1, 0.01], 0.3, 37, warmup=0.1),
    "cosine": schedules.Cosine(0.3, 37, warmup=0.1, floor=0.02),
    "recorded": schedules.Recorded(np.linspace(0.3, 0.1, 37)),
    "ft": schedules.FT([0.1, 0.01], 37),
    "lrw": schedules.LRW(np.linspace(0.3, 0.1, 50), 37),
    "slr": schedules.SLR([0.05, 0.2, 0.2, 0.1, 0.01], 37),
    "clr": schedules.CLR([0.3, 0.1, 0.01], 37),
    "llr": schedules.LLR(0.3, 37),
    "allr": schedules.ALLR(0.3, 37, discount=0.25),
}


@pytest.mark.parametrize("name", ALL)
def test_the_graph_computes_what_values_returns(name):
    schedule = ALL[name]
    rates = [float(schedule(i)) for i in range(schedule.steps)]
    np.testing.assert_allclose(rates, schedule.values(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_rates_hold_beyond_the_last_iteration(name):
    schedule = ALL[name]
    last = schedule.values()[-1]
    assert float(schedule(10**6)) == pytest.approx(last, rel=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_serialization_round_trip(name):
    config = keras.optimizers.schedules.serialize(ALL[name])
    again = keras.optimizers.schedules.deserialize(
        json.loads(json.dumps(config))
    )
    assert type(again) is type(ALL[name])
    np.testing.assert_array_equal(again.values(), ALL[name].values())


def test_linear_is_the_line_of_the_paper():
    k = np.arange(8)
    np.testing.assert_allclose(
        schedules.Linear(0.4, 8).values(), 0.4 * (1 - k / 8), rtol=1e-15
    )


def test_warm_up_is_half_a_cosine_from_zero():
    i = np.arange(10)
    np.testing.assert_allclose(
        schedules.LLR(0.4, 100).values()[:10],
        0.4 * (1 - np.cos(np.pi * i / 10)) / 2,
        atol=1e-15,
    )


def test_a_warm_up_of_a_fraction_of_an_iteration_is_rounded_down():
    rates = schedules.Linear(0.3, 37, warmup=0.1).values()  # 3.7 iterations.
    ramp = 0.3 * (1 - np.cos(np.pi * np.arange(3) / 3)) / 2
    line = 0.3 * (1 - np.arange(34) / 34)
    np.testing.assert_allclose(rates, np.concatenate([ramp, line]), atol=1e-12)


def test_stepped_compresses_and_rescales_the_original():
    original = np.repeat([0.1, 0.01, 0.001], [90, 90, 20])
    rates = schedules.Stepped(original, peak=0.5, steps=20).values()
    expected = np.repeat([0.5, 0.05, 0.005], [9, 9, 2])
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


def test_slr_begins_where_the_original_first_had_its_peak():
    # The original's warm-up is replaced by its peak.
    original = [0.02, 0.1, 0.4, 0.4, 0.1, 0.4, 0.01, 0.01]
    rates = schedules.SLR(original, steps=4, warmup=0.0).values()
    np.testing.assert_allclose(rates, [0.4, 0.4, 0.1, 0.01], rtol=1e-12)
    assert original[0] == 0.02


def test_cosine_falls_from_peak_to_floor():
    k = np.arange(50)
    expected = 0.1 + 0.3 * (1 + np.cos(np.pi * k / 50)) / 2
    schedule = schedules.Cosine(0.4, 50, floor=0.1)
    np.testing.assert_allclose(schedule.values(), expected, rtol=1e-12)
    clr = schedules.CLR([0.2, 0.4, 0.1], 50, warmup=0.0)
    np.testing.assert_array_equal(clr.values(), schedule.values())


def test_a_cosine_keeps_its_digits_near_its_end():
    schedule = schedules.Cosine(0.1, 10**6)
    exact = schedule.values()[999_999]
    assert 0 < exact < 1e-12
    assert float(schedule(999_999)) == pytest.approx(exact, rel=1e-6)


def test_fine_tuning_at_a_rate_of_nothing_warns_once():
    with pytest.warns(UserWarning, match="retraining='allr'"):
        schedule = schedules.FT([0.1, 0.0009], 3)
    # No second warning when loaded; and 1% in float32 is 1%.
    keras.optimizers.schedules.deserialize(
        keras.optimizers.schedules.serialize(schedule)
    )
    schedules.FT(np.float32([0.1, 0.001]), 3)


def test_plot_draws_every_iteration():
    import matplotlib

    matplotlib.use("agg")
    one, other = schedules.LLR(0.3, 40), schedules.LRW([0.3, 0.2, 0.1], 2)
    axes = schedules.plot({"linear": one, "rewound": other})
    for line, schedule in zip(axes.lines, (one, other), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), schedule.values())
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["linear", "rewound"]
    assert one.plot(axes) is axes
    assert axes.lines[-1].get_label() == "LLR"
    assert schedules.plot(one).lines
    keras_schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    with pytest.raises(TypeError, match=r"schedules\.Recorded"):
        schedules.plot([one, keras_schedule])
    axes.figure.clear()


def test_float32_keeps_its_digits_over_a_million_steps():
    schedule = schedules.LLR(0.1, 10**6)
    for step in (1, 99_999, 100_000, 999_999):
        exact = schedule.values()[step]
        assert float(schedule(step)) == pytest.approx(exact, rel=1e-6)


def test_allr_reads_its_discount_anew():
    discount = schedules.discount_variable()
    schedule = schedules.ALLR(0.1, 10, discount)
    before = float(schedule(1))
    discount.assign(0.5)
    assert float(schedule(1)) == pytest.approx(before / 2)
    assert schedule.values().max() == pytest.approx(0.05)


def test_discount_factors_match_the_reference():
    rows = json.loads((GOLDEN / "allr_factors.json").read_text())
    assert len(rows) == 264
    for row in rows:
        d1, d2, d = schedules.discount_factor(
            row["relative_norm_drop"],
            row["prune_fraction"],
            row["T_rt"],
            row["T"],
        )
        assert d1 == pytest.approx(row["d1"], rel=1e-12)
        assert d2 == pytest.approx(row["d2"], rel=1e-12)
        assert d == pytest.approx(row["d_from_schedule_peak"], rel=1e-12)


def test_discount_of_a_pruning_that_removes_nothing():
    assert schedules.discount_factor(0.0, 0.0, 10, 40) == (0.0, 0.25, 0.25)
    assert schedules.discount_factor(0.0, 0.0, 10, None) == (0.0, 0.0, 1.0)


def test_joined_follows_the_last_phase_that_has_begun():
    joined = schedules.Joined(
        [schedules.Linear(0.4, 4), schedules.Linear(0.2, 2)]
    )
    assert float(joined(1)) == pytest.approx(0.3)
    assert float(joined(100)) == pytest.approx(0.1)  # Holds its last rate.
    joined.begin(1, step=100)
    assert float(joined(100)) == pytest.approx(0.2)
    assert float(joined(101)) == pytest.approx(0.1)
    assert float(joined(99)) == pytest.approx(0.1)


@pytest.mark.parametrize("begins", [[2, None, None], [0, 4, 6], [3, 7, 5]])
@pytest.mark.parametrize("start", [0, 1, 5, 9])
def test_the_rates_of_joined_are_what_it_returns(begins, start):
    discount = schedules.discount.discount_variable(0.3)
    phases = [
        keras.optimizers.schedules.PolynomialDecay(0.4, 4, 0.0),
        schedules.ALLR(0.2, 3, discount),
        schedules.Linear(0.1, 2),
    ]
    joined = schedules.Joined(phases, begins, discount)
    np.testing.assert_allclose(
        schedules.schedule_values(joined, 6, start),
        [float(joined(step)) for step in range(start, start + 6)],
        rtol=1e-6,
    )


def test_joined_keeps_its_state_when_serialized():
    joined = schedules.Joined(
        [schedules.Linear(0.4, 4), schedules.LLR(0.2, 20)],
        begins=[7, None],
        discount=0.3,
        replaced=0.5,
    )
    again = schedules.Joined.from_config(
        json.loads(json.dumps(joined.get_config()))
    )
    assert [again.begun(0), again.begun(1)] == [True, False]
    assert float(again(8)) == float(joined(8)) == pytest.approx(0.3)
    assert float(again.discount) == pytest.approx(0.3)
    assert again.replaced == 0.5


def test_original_rates_of_a_keras_schedule():
    cosine = keras.optimizers.schedules.CosineDecay(
        0.0, 8, warmup_target=0.1, warmup_steps=2
    )
    rates = schedules.original_rates((cosine, 10))
    expected = [float(cosine(i)) for i in range(10)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: schedules.Linear("0.1", 3), TypeError, "`peak`"),
        (lambda: schedules.Linear(-0.1, 3), ValueError, "`peak`"),
        (lambda: schedules.Linear(float("nan"), 3), ValueError, "`peak`"),
        (lambda: schedules.Linear(0.1, 0), ValueError, "`steps`"),
        (lambda: schedules.Linear(0.1, 2.5), TypeError, "`steps`"),
        (lambda: schedules.LLR(0.1, 3, warmup=1.0), ValueError, "`warmup`"),
        (lambda: schedules.ALLR(0.1, 3, 1.5), ValueError, "`discount`"),
        (lambda: schedules.FT([], 3), ValueError, "`original`"),
        (lambda: schedules.FT(None, 3), ValueError, "`original`"),
        (lambda: schedules.FT([0.1, np.nan], 3), ValueError, "`original`"),
        (lambda: schedules.Stepped([0.0], 0.1, 3), ValueError, "`original`"),
        (lambda: schedules.Joined([]), ValueError, "`schedules`"),
        (
            lambda: schedules.LRW([0.1, 0.2], 3),
            ValueError,
            "`steps`.*`original`",
        ),
        (lambda: schedules.LRW([0.1, 0.2], 0), ValueError, "`steps`"),
        (lambda: schedules.SLR([0.0], 3), ValueError, "`original`"),
        (lambda: schedules.CLR("rates", 3), ValueError, "`original`"),
        (lambda: schedules.Recorded([]), ValueError, "`values`"),
        (lambda: schedules.Recorded({0: 0.1}), ValueError, "`values`"),
        (
            lambda: schedules.Cosine(0.1, 3, floor=0.2),
            ValueError,
            "`floor`.*`peak`",
        ),
    ],
)
def test_bad_arguments(make, error, text):
    with pytest.raises(error, match=text):
        make()
