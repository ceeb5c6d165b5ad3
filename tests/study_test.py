"""The study's harness: grids, runs, sweeps, tables."""

import dataclasses
import functools
import json
import subprocess
import sys

import numpy as np
import pytest
from from_examples import STUDY
from from_examples import importable

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def study():
    with importable(STUDY):
        yield


def write(path, text):
    path.write_text(text)
    return path


def test_a_list_is_an_axis_and_what_a_method_ignores_makes_no_run(tmp_path):
    from grids import Grid

    grid = Grid.read(
        write(
            tmp_path / "x.yaml",
            """
            base: {seed: [0, 1], epochs: 4}
            grids:
              - method: [dense, bimp]
                target_sparsity: [0.5, 0.9]
                weight_decay: 1e-4
            """,
        )
    )
    runs = [run for cell in grid.cells for run in cell.candidates]
    assert [run.method for run in runs] == ["dense", "bimp", "bimp"]
    assert [run.target_sparsity for run in runs[1:]] == [0.5, 0.9]
    assert runs[0].weight_decay == 1e-4
    assert "target_sparsity" not in runs[0].facts()
    assert {cell.seeds for cell in grid.cells} == {(0, 1)}


def test_what_is_chosen_is_not_an_axis(tmp_path):
    import tables
    from grids import Grid

    grid = Grid.read(
        write(
            tmp_path / "x.yaml",
            """
            grids:
              - method: dense
                seed: [3, 4]
                choose: {learning_rate: [0.1, 0.2, 0.3]}
            """,
        )
    )
    (cell,) = grid.cells
    assert [run.learning_rate for run in cell.candidates] == [0.1, 0.2, 0.3]
    assert {run.seed for run in cell.candidates} == {3}
    validation = {0.1: 50, 0.2: 70, 0.3: 60}
    chosen = tables.best(
        cell,
        lambda run: {
            "validation": validation[run.learning_rate],
            "diverged": False,
        },
    )
    assert chosen.learning_rate == 0.2
    (other,) = cell.rest(chosen)
    assert (other.learning_rate, other.seed) == (0.2, 4)
    chosen = tables.best(
        cell,
        lambda run: {
            "validation": validation[run.learning_rate],
            "diverged": run.learning_rate > 0.15,
        },
    )
    assert chosen.learning_rate == 0.1


def test_an_unknown_setting_is_refused(tmp_path):
    from grids import Grid

    path = write(tmp_path / "x.yaml", "grids: [{method: dense, lr: 1}]")
    with pytest.raises(ValueError, match=r"\blr .*x\.yaml"):
        Grid.read(path)


@pytest.mark.parametrize(
    "path", sorted((STUDY / "grids").rglob("*.yaml")), ids=lambda p: p.stem
)
def test_grids_ask_for_what_exists(path):
    import data
    import networks
    from grids import Grid
    from rates import SCHEDULES

    import keras_bimp

    grid = Grid.read(path)
    assert grid.cells
    assert grid.tables
    for cell in grid.cells:
        for run in cell.candidates:
            assert run.task in data.NAMES
            assert hasattr(networks, run.network)
            assert run.schedule in SCHEDULES
            keras_bimp._src.plan.check_automatic(run.cycles, run.retraining)


def test_flags_ask_for_the_run_they_come_from():
    from runs import Run

    run = Run(
        method="gmp",
        task="digits",
        settings={"interval": 2, "hard": True},
        augment=False,
        weight_decay=3e-4,
    )
    asked = (
        "import run, sys; from absl import flags;"
        "flags.FLAGS(sys.argv); print(run.asked().key)"
    )
    found = subprocess.run(
        [sys.executable, "-c", asked, *run.flags()],
        cwd=STUDY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == run.key


def test_what_is_chosen_is_a_setting_and_numbers_stay_numbers():
    from runs import Run

    run = Run(dense_epochs="auto", cycles="3")
    assert (run.dense_epochs, run.cycles) == ("auto", 3)
    # A line of an old file has the same key.
    assert run.key == Run(dense_epochs="auto", cycles=3).key
    assert {"--dense_epochs=auto", "--cycles=3"} <= set(run.flags())
    with pytest.raises(ValueError, match=r"`settings`.*`allocation`"):
        Run(method="gmp", settings={"allocation": "uniform"})


@pytest.mark.parametrize(
    ("method", "flag"),
    [
        ("gmp", "--cycles=3"),
        ("dense", "--allocation=lamp"),
        ("dpf", "--allocation=lamp"),
        ("bimp", "--retrain_epochs=3"),
    ],
)
def test_a_flag_that_a_method_does_not_look_at_is_refused(method, flag):
    command = [sys.executable, "run.py", f"--method={method}", flag]
    done = subprocess.run(
        command, cwd=STUDY, capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert flag.split("=")[0] in done.stdout + done.stderr
    assert f"--method={method}" in done.stdout + done.stderr


def test_gmp_and_bimp_prune_by_the_allocation_that_is_asked_for(tmp_path):
    import runs
    import training

    run = runs.Run(
        task="digits",
        subset=500,
        network="convnet",
        network_options={"filters": (8, 8)},
        method="gmp",
        allocation="uniform",
        target_sparsity=0.75,
        settings={"interval": 1, "hard": True},
        epochs=2,
        weight_decay=0.0,
        batch_size=50,
    )
    starts = []

    def start_of(*arguments):
        starts.append(original(*arguments))
        return starts[-1]

    original, training.start_of = training.start_of, start_of
    try:
        for each in (
            run,
            dataclasses.replace(
                run,
                method="bimp",
                settings={},
                dense_epochs="auto",
                cycles="auto",
                retraining="auto",
            ),
        ):
            training.execute(each, dense_dir=tmp_path, jit_compile=False)
            model = starts[-1].model
            kernels = [v for v in model.weights if v.path.endswith("kernel")]
            # A quarter of 72, 576 and 80 weights.
            left = [int((np.array(v) != 0).sum()) for v in kernels]
            assert left == [18, 144, 20]
    finally:
        training.start_of = original
    # The automatic choice: half of two epochs.
    plan = starts[-1].callbacks[0].plan
    assert [phase.epochs for phase in plan.phases] == [1, 1]


def test_cycles_that_are_chosen_share_the_epochs_of_retraining(tmp_path):
    import runs
    import training

    run = runs.Run(
        task="digits",
        subset=100,
        network="convnet",
        network_options={"filters": (8, 8)},
        method="imp",
        epochs=1,
        retrain_epochs=3,
        cycles="auto",
        retraining="auto",
        batch_size=50,
    )
    training.execute(run.dense(), dense_dir=tmp_path, jit_compile=False)
    found = training.execute(run, dense_dir=tmp_path, jit_compile=False)
    # Six iterations are no more than one cycle.
    assert [phase["name"] for phase in found["phases"]] == ["cycle 1"]
    assert len(found["history"]["loss"]) == 3
    with pytest.raises(ValueError, match=r"`cycles`.*'wr'"):
        training.execute(
            dataclasses.replace(run, retraining="wr"), dense_dir=tmp_path
        )


@pytest.mark.parametrize("stopped", [2, 4])
def test_a_run_with_a_backup_resumes(tmp_path, monkeypatch, stopped):
    import measuring
    import runs
    import training

    run = runs.Run(
        task="digits",
        subset=100,
        network="convnet",
        network_options={"filters": (8, 8)},
        method="bimp",
        dense_epochs=2,
        cycles=3,
        epochs=5,
        batch_size=50,
    )
    begun = []
    begin_epoch = measuring.Speed.on_epoch_begin

    def on_epoch_begin(self, epoch, logs=None):
        begun.append(epoch)
        if begun.count(epoch) == 1 and epoch == stopped:
            raise KeyboardInterrupt
        begin_epoch(self, epoch, logs)

    monkeypatch.setattr(measuring.Speed, "on_epoch_begin", on_epoch_begin)
    execute = functools.partial(
        training.execute,
        run,
        dense_dir=tmp_path,
        backup_dir=tmp_path / "backup",
        jit_compile=False,
    )
    with pytest.raises(KeyboardInterrupt):
        execute()
    found = execute()
    assert begun == [*range(stopped), stopped, *range(stopped, 5)]
    assert len(found["history"]["loss"]) == 5
    assert len(found["prunings"]) == 3
    assert found["sparsity"] == pytest.approx(0.9, abs=0.001)


def test_an_unfinished_line_is_left_out_and_ended(tmp_path):
    import runs

    path = tmp_path / "runs.jsonl"
    runs.append(path, {"a": 1})
    with open(path, "a") as file:
        file.write('{"a": 2, "b"')  # Killed here.
    assert runs.read(path) == [{"a": 1}]
    runs.mend(path)
    runs.append(path, {"a": 3})
    assert runs.read(path) == [{"a": 1}, {"a": 3}]


def test_rates():
    from rates import dense_rates

    stepped = dense_rates("stepped", 1.0, 20)
    np.testing.assert_allclose(stepped, [1.0] * 9 + [0.1] * 9 + [0.01] * 2)
    np.testing.assert_allclose(
        dense_rates("linear", 0.4, 4), [0.4, 0.3, 0.2, 0.1]
    )
    np.testing.assert_allclose(
        dense_rates("cyclic", 1.0, 4, 2), [1.0, 0.5, 1.0, 0.5]
    )
    t5 = dense_rates("t5", 0.1, 10)
    expected = [0.05, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 1e-4, 1e-4]
    np.testing.assert_allclose(t5, expected)
    with pytest.raises(ValueError, match="schedule='steps'"):
        dense_rates("steps", 1.0, 4)


def entry(test, validation=0.0, **run):
    return {"run": run, "found": {"test": test, "validation": validation}}


def test_a_table_marks_the_best_three():
    import tables

    entries = [
        entry(accuracy + change, retraining=name, target_sparsity=0.9, seed=i)
        for name, accuracy in (("ft", 1), ("lrw", 2), ("llr", 3), ("allr", 4))
        for i, change in enumerate((-0.5, 0.5))
    ]
    assert tables.table(entries, ["retraining"], ["target_sparsity"]) == (
        "| retraining | 90% |\n|---|---|\n| FT | 1.00 +- 0.71 |\n"
        "| LRW | *2.00 +- 0.71* |\n| LLR | <u>3.00 +- 0.71</u> |\n"
        "| ALLR | **4.00 +- 0.71** |"
    )


def test_a_table_may_show_the_error_of_the_mean():
    import tables

    entries = [
        entry(accuracy, method="gmp", target_sparsity=0.9, seed=i)
        for i, accuracy in enumerate((1.0, 2.0, 3.0, 6.0))
    ]
    found = tables.table(
        entries, ["method"], ["target_sparsity"], spread="error"
    )
    # The deviation is the square root of 14/3, the error half of that.
    assert "| GMP | 3.00 +- 1.08 |" in found


def test_a_table_shows_the_settings_with_the_best_validation():
    import tables

    entries = [
        entry(80.0, 60.0, method="bimp", learning_rate=0.1, seed=0),
        entry(82.0, 62.0, method="bimp", learning_rate=0.1, seed=1),
        entry(99.0, 50.0, method="bimp", learning_rate=0.2, seed=0),
    ]
    found = tables.table(entries, ["method"], ["target_sparsity"])
    assert "| BIMP | 81.00 +- 1.41 |" in found


def test_figures_have_a_band_from_the_smallest_to_the_largest(tmp_path):
    import figures

    groups = [
        [
            {
                "run": {"method": "bimp", "seed": seed},
                "found": {
                    "test": 90.0 + seed,
                    "sparsity": 0.9,
                    "history": {
                        "val_loss": [1.0, 1.0],
                        "val_accuracy": [0.5, None if seed else 0.75],
                    },
                },
            }
            for seed in (0, 1)
        ]
    ]
    over = figures.lines(groups, lambda e: e["run"]["method"], "epoch")
    assert over == {"bimp": {1: [50.0, 50.0], 2: [75.0]}}
    over = figures.lines(groups, lambda e: e["run"]["method"], "sparsity")
    assert over == {"bimp": {90.0: [90.0, 91.0]}}
    path = tmp_path / "x.png"
    figures.draw(over, "sparsity", "accuracy", path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_sweep_trains_what_it_needs_and_nothing_twice(tmp_path):
    grid = write(
        tmp_path / "small.yaml",
        """
        base:
          task: digits
          subset: 500
          network: resnet8
          network_options: {width: 4}
          epochs: 2
          batch_size: 50
          weight_decay: 1e-4
        grids:
          - method: imp
            retraining: [allr]
            retrain_epochs: 1
            cycles: 2
            target_sparsity: 0.75
        tables:
          - {rows: [retraining], columns: [target_sparsity]}
        """,
    )
    command = [
        sys.executable,
        str(STUDY / "sweep.py"),
        f"--grid={grid}",
        f"--output_dir={tmp_path}",
        "--jit_compile=false",
    ]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not first.returncode, first.stdout + first.stderr
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    dense, pruned = map(json.loads, lines)
    assert dense["run"]["method"] == "dense"
    assert "target_sparsity" not in dense["run"]
    assert pruned["found"]["sparsity"] == 0.75
    assert [p["name"] for p in pruned["found"]["phases"]] == [
        "cycle 1",
        "cycle 2",
    ]
    # The second cycle begins with the result of the first.
    one, two = pruned["found"]["prunings"]
    assert one["test_before"] == pytest.approx(dense["found"]["test"])
    assert 0 < two["pruned_fraction"] == pytest.approx(0.5, abs=1e-3)
    assert len(pruned["found"]["history"]["val_accuracy"]) == 2
    assert "| ALLR | " in (tmp_path / "small.md").read_text()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "runs.jsonl").read_text().splitlines() == lines
    assert "| ALLR | " in again.stdout


def test_what_diverged_is_marked_and_nothing_begins_with_it(tmp_path):
    import runs
    import training

    run = runs.Run(
        task="digits",
        subset=100,
        network="resnet8",
        network_options={"width": 4},
        method="dense",
        schedule="constant",
        learning_rate=1e30,
        epochs=2,
        batch_size=50,
    )
    found = training.execute(run, dense_dir=tmp_path, jit_compile=False)
    assert found["diverged"]
    assert None in found["history"]["loss"]
    pruned = dataclasses.replace(run, method="imp")
    with pytest.raises(ValueError, match=f"diverged.*{tmp_path}"):
        training.execute(pruned, dense_dir=tmp_path)
    runs.append(tmp_path / "runs.jsonl", {"run": run.facts(), "found": found})
    grid = write(
        tmp_path / "diverged.yaml",
        "{grids: ["
        + json.dumps(pruned.facts() | {"schedule": "constant"})
        + "]}",
    )
    command = [sys.executable, str(STUDY / "sweep.py"), f"--grid={grid}"]
    command.append(f"--output_dir={tmp_path}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "diverged" in done.stdout
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 1
