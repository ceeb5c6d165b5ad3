"""The study of pruning-stable methods: choice of settings, and tables."""

import pytest
from from_examples import STUDY
from from_examples import importable
from helpers import lines_with

pytestmark = pytest.mark.slow

BASE = {"dataset": "digits", "epochs": 40, "learning_rate": 0.1, "seed": 0}


@pytest.fixture(scope="module")
def study():
    with importable(STUDY):
        import pruning_stable

        yield pruning_stable


def test_the_best_on_validation_images_is_chosen(study):
    asked = []

    def runs(run):
        asked.append(run["settings"])
        better = run["settings"]["cycles"] == 2
        return {"validation": 0.5 + 0.1 * better, "test": 0.9 - 0.1 * better}

    base = BASE | {"method": "bimp", "target_sparsity": 0.9}
    chosen = study.choose(base, 1e-4, runs)["settings"]
    assert chosen == {"weight_decay": 1e-4, "dense_epochs": 12, "cycles": 2}
    assert [s["dense_epochs"] for s in asked] == [12] * 3 + [20] * 3


def test_a_run_that_diverged_is_not_chosen(study):
    lost = {"validation": 1.0, "diverged": True}
    kept = {"validation": 0.1}
    assert study.best([(1, lost), (2, kept)]) == (2, kept)


@pytest.mark.parametrize(
    ("method", "name", "sparsity"),
    [
        # The sparsity reached with a value of the setting.
        ("str", "weight_decay", lambda x: 1 - 1 / (1 + 1000 * x)),
        ("cs", "s_init", lambda x: 0.5 - x),
        ("dst", "alpha", lambda x: 1 - 1 / (1 + 1000 * x)),
    ],
)
def test_the_target_is_searched_by_bisection(study, method, name, sparsity):
    asked = []

    def runs(run):
        asked.append(sparsity(run["settings"][name]))
        return {"validation": 0.5, "sparsity": asked[-1]}

    base = BASE | {"method": method, "target_sparsity": 0.75}
    chosen = study.choose(base, 1e-4, runs)["settings"]
    assert len(asked) <= study.TRIALS
    # The last is on target, or as close as bisection gets.
    assert abs(sparsity(chosen[name]) - 0.75) == min(
        abs(reached - 0.75) for reached in asked
    )
    assert abs(sparsity(chosen[name]) - 0.75) < 0.02


def test_a_table_has_means_and_spreads_and_the_best(study):
    cells = {
        ("digits", "bimp", 0.9): ({}, [found(0.97), found(0.99)]),
        ("digits", "cs", 0.9): ({}, [found(0.96), found(0.98, 0.89)]),
    }
    lines = study.table(cells, "digits", [0.9], ["bimp", "cs"]).splitlines()
    assert lines_with(lines[0], "digits", "90%")
    assert lines[2] == "| BIMP | **98.00 +- 1.41** | 90.00 |"
    assert lines[3] == "| CS | 97.00 +- 1.41 | 89.50 +- 0.71 |"


def found(accuracy, sparsity=0.9):
    return {"test": accuracy, "sparsity": sparsity}
