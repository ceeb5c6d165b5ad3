"""Compares BIMP with the eight pruning-stable methods at equal total epochs.

For each data set, target sparsity and method, a grid of settings is tried with
seed 0, and the settings with the best validation accuracy are run with the
other seeds. Test images are only used for the table. The learning rate and
weight decay are those of the dense network unless the grid sets them.

STR, CS and DST have no target sparsity. The setting that determines the
sparsity is found by bisection, and a run counts if it ends within 0.25% of the
target, as in the paper.

Each finished run is a line of `runs.jsonl` in `--output_dir` and is not
repeated, so you can stop at any time and start again. At the end, tables are
printed and written to `tables.md`.
"""

import functools
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

from absl import app
from absl import flags

FLAGS = flags.FLAGS
METHODS = ("bimp", "gmp", "gsm", "lc", "dpf", "dnw", "cs", "str", "dst")
flags.DEFINE_list("dataset", ["digits", "fashion_mnist"], "Data sets.")
flags.DEFINE_list("method", list(METHODS), "Methods to compare.")
flags.DEFINE_list("target_sparsity", ["0.9", "0.98"], "To prune to.")
flags.DEFINE_list("seed", ["0", "1", "2"], "The first is for the settings.")
flags.DEFINE_integer("processes", 2, "Runs at a time.")
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps data.")
flags.DEFINE_string("output_dir", "output/pruning_stable", "Where to write.")

EPOCHS = {"digits": 40, "fashion_mnist": 10}
TOLERANCE = 0.0025
TRIALS = 8  # Of the bisection.


def dense_grid(dataset):
    del dataset
    return [
        {"learning_rate": rate, "settings": {"weight_decay": decay}}
        for rate in (0.02, 0.05, 0.1, 0.2)
        for decay in (1e-4, 5e-4, 2e-3)
    ]


def grid(method, epochs, weight_decay):
    """Returns the settings of a method to try, at most six."""
    match method:
        case "bimp":  # Dense epochs of 30 and 50%.
            return [
                {
                    "weight_decay": weight_decay,
                    "dense_epochs": round(share * epochs),
                    "cycles": cycles,
                }
                for share in (0.3, 0.5)
                for cycles in (1, 2, 3)
            ]
        case "gmp":  # Nine prunings.
            return [
                {
                    "weight_decay": weight_decay,
                    "interval": epochs // 10,
                    "hard": hard,
                    "schedule": schedule,
                }
                for hard in (False, True)
                for schedule in ("linear", "stepped", "cyclic")
            ]
        # These two push weights to 0 only by their decay, and in few epochs.
        case "gsm":
            return [
                {"weight_decay": weight_decay * factor, "momentum": momentum}
                for factor in (1, 8, 64)
                for momentum in (0.9, 0.95)
            ]
        case "lc":
            return [
                {"weight_decay": weight_decay * factor}
                for factor in (1, 4, 16, 64, 256, 1024)
            ]
        case "dpf" | "dnw":
            interval = {"interval": epochs // 10} if method == "dpf" else {}
            return [
                {
                    "weight_decay": decay,
                    "rate_factor": factor,
                    "schedule": schedule,
                    **interval,
                }
                for schedule, decay in (
                    ("linear", weight_decay),
                    ("linear", 4 * weight_decay),
                    ("stepped", weight_decay),
                )
                for factor in (1, 0.5)
            ]


def searched(method, weight_decay):
    """Returns a function from a number to settings, and the search range.

    A larger number is sparser.
    """
    match method:
        case "str":
            return (
                # As in its paper: decay raises thresholds and shrinks weights.
                lambda x: {"weight_decay": 10**x, "s_init": -5.0},
                (-5.0, -1.0),
            )
        case "cs":
            return (
                lambda x: {"weight_decay": weight_decay, "s_init": -x},
                (-0.3, 0.3),
            )
        case "dst":
            return (
                lambda x: {"weight_decay": weight_decay, "alpha": 10**x},
                (-7.0, -1.0),
            )


class Runs:
    """Executes runs, and keeps finished ones in a file.

    Args:
        path: File of JSON lines that several processes append to.
        data_dir: Where TensorFlow Datasets keeps data.
    """

    def __init__(self, path, data_dir):
        self._path, self._data_dir = path, data_dir
        self._found = {}
        if path.exists():
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                self._found[json.dumps(entry["run"])] = entry["found"]

    def __call__(self, run):
        """Returns the results of a run, which is executed if necessary."""
        key = json.dumps(run)
        if key not in self._found:
            from pruning_stable_runs import execute

            found = self._found[key] = execute(run, self._data_dir)
            line = json.dumps({"run": run, "found": found})
            with self._path.open("a") as file:
                file.write(f"{line}\n")
            print(line, flush=True)
        return self._found[key]


def best(candidates):
    """Returns the run with the best validation accuracy, and its results."""
    finite = [c for c in candidates if not c[1].get("diverged")]
    return max(finite or candidates, key=lambda c: c[1]["validation"])


def choose_dense(dataset, seed, runs):
    candidates = []
    for settings in dense_grid(dataset):
        run = {
            "dataset": dataset,
            "method": "dense",
            "target_sparsity": 0.0,
            "epochs": EPOCHS[dataset],
            "seed": seed,
            **settings,
        }
        candidates.append((run, runs(run)))
    return best(candidates)[0]


def choose(base, weight_decay, runs):
    """Tries the settings of a method, and returns the best run."""
    method, target = base["method"], base["target_sparsity"]
    if method not in ("str", "cs", "dst"):
        settings = grid(method, base["epochs"], weight_decay)
        found = [(run, runs(run)) for run in with_settings(base, settings)]
        return best(found)[0]
    of, (low, high) = searched(method, weight_decay)
    found = []
    for _ in range(TRIALS):
        middle = float(f"{(low + high) / 2:.6g}")
        (run,) = with_settings(base, [of(middle)])
        found.append((run, runs(run)))
        reached = found[-1][1]["sparsity"]
        if abs(reached - target) <= TOLERANCE:
            break
        low, high = (middle, high) if reached < target else (low, middle)
    close = [c for c in found if abs(c[1]["sparsity"] - target) <= TOLERANCE]
    if close:
        return best(close)[0]
    return min(found, key=lambda c: abs(c[1]["sparsity"] - target))[0]


def with_settings(base, settings):
    return [base | {"settings": each} for each in settings]


def cell(job, path, data_dir):
    """Executes all runs of one method at one sparsity on one data set.

    Returns:
        The chosen run, and the results for each seed.
    """
    dataset, method, target, seeds = job
    runs = Runs(path, data_dir)
    chosen = choose_dense(dataset, seeds[0], runs)
    if method != "dense":
        decay = chosen["settings"]["weight_decay"]
        base = chosen | {"method": method, "target_sparsity": target}
        chosen = choose(base, decay, runs)
    return chosen, [runs(chosen | {"seed": seed}) for seed in seeds]


def with_spread(values):
    values = [100 * value for value in values]
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.2f} +- {spread:.2f}"


def table(cells, dataset, targets, methods):
    """Returns Markdown: a row per method, two columns per sparsity."""
    titles = [f"{target:.0%}: test | sparsity" for target in targets]
    lines = [
        f"| {dataset} | {' | '.join(titles)} |",
        "|---" * (1 + 2 * len(targets)) + "|",
    ]
    top = {
        target: max(
            statistics.mean(f["test"] for f in cells[dataset, m, target][1])
            for m in methods
        )
        for target in targets
    }
    for method in methods:
        row = [method.upper()]
        for target in targets:
            found = cells[dataset, method, target][1]
            accuracies = [f["test"] for f in found]
            text = with_spread(accuracies)
            if statistics.mean(accuracies) == top[target]:
                text = f"**{text}**"
            sparsity = with_spread([f["sparsity"] for f in found])
            row += [text, sparsity.removesuffix(" +- 0.00")]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def chosen_settings(cells, dataset):
    """Returns Markdown: the chosen settings of each method."""
    for (name, method, target), (run, _) in cells.items():
        if name == dataset and method != "dense":
            settings = ", ".join(f"{k}={v}" for k, v in run["settings"].items())
            yield f"- {method.upper()}, {target:.0%}: {settings}"


def tables(cells):
    targets = sorted({target for _, method, target in cells if target})
    methods = [m for m in METHODS if any(m == key[1] for key in cells)]
    for dataset in dict.fromkeys(key[0] for key in cells):
        run, found = cells[dataset, "dense", 0.0]
        yield (
            f"Dense: {with_spread([f['test'] for f in found])} with a learning "
            f"rate of {run['learning_rate']} and a weight decay of "
            f"{run['settings']['weight_decay']}."
        )
        yield table(cells, dataset, targets, methods)
        yield "\n".join(chosen_settings(cells, dataset))


def main(_):
    output_dir = pathlib.Path(FLAGS.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    seeds = tuple(map(int, FLAGS.seed))
    first = [(dataset, "dense", 0.0, seeds) for dataset in FLAGS.dataset]
    jobs = [
        (*job, seeds)
        for job in itertools.product(
            FLAGS.dataset, FLAGS.method, map(float, FLAGS.target_sparsity)
        )
    ]
    work = functools.partial(
        cell, path=output_dir / "runs.jsonl", data_dir=FLAGS.data_dir
    )
    # Two runs at a time should use one core each, not two.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
    # One process per cell, so that TensorFlow's memory is released.
    with multiprocessing.get_context("spawn").Pool(
        FLAGS.processes, maxtasksperchild=1
    ) as pool:
        found = pool.map(work, first, chunksize=1)
        found += pool.map(work, jobs, chunksize=1)
    cells = {
        job[:3]: result for job, result in zip(first + jobs, found, strict=True)
    }
    text = "\n\n".join(tables(cells))
    (output_dir / "tables.md").write_text(f"{text}\n")
    seconds = sum(
        json.loads(line)["found"]["seconds"]
        for line in (output_dir / "runs.jsonl").read_text().splitlines()
    )
    print(f"\n{text}\n\n{seconds / 60:.0f} minutes of runs in total")


if __name__ == "__main__":
    app.run(main)
