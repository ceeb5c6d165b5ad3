"""Compares gradual pruning in tensorflow-model-optimization and keras_bimp.

The same network, starting from the same weights, is trained on the same images
in the same order, with SGD, Nesterov momentum, coupled weight decay and a
learning rate that decays linearly to 0 (for BIMP, its schedule from the same
rate):

- tfmot: `prune_low_magnitude` with `PolynomialDecay`, which prunes each layer
  to the same sparsity, on tf_keras;
- gmp_uniform: `keras_bimp.baselines.gmp` at the same steps to the same
  sparsities of each layer, on Keras 3;
- gmp: the same, but with global selection;
- bimp: `keras_bimp.callbacks(target_sparsity)`, with its default budget;
- tf_keras and keras: the dense network.

First, accuracies are measured, with one process per run. Each finished run is a
line of `runs.jsonl` in `--output_dir` and is not repeated, so you can stop at
any time and start again. Then the methods train in turns, epoch by epoch, each
in a separate process, to measure images per second. These rounds are in
`rounds.jsonl`. At the end, tables are printed and written to `tables.md`.

The other library needs a separate environment. To make it, run
`python examples/study/tfmot_peer/make_environment.py`.
"""

import contextlib
import itertools
import json
import multiprocessing.pool
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import data
import numpy as np
import tfmot_tables
from absl import app
from absl import flags
from absl import logging
from tfmot_tables import METHODS
from tfmot_tables import THEIRS

FLAGS = flags.FLAGS
STUDY = pathlib.Path(__file__).parent
flags.DEFINE_string("tfmot_python", None, "Python that has tfmot.")
flags.DEFINE_list("dataset", ["cifar10", "fashion_mnist"], "Data sets.")
flags.DEFINE_list("method", list(METHODS), "Methods to compare.")
flags.DEFINE_list("target_sparsity", ["0.9", "0.95", "0.98"], "To prune to.")
flags.DEFINE_list("seed", ["0", "1"], "Seeds of weights and order of images.")
flags.DEFINE_integer("subset", 10_000, "Training images.")
flags.DEFINE_integer("epochs", 10, "Epochs of each training.")
flags.DEFINE_integer("interval", 2, "Epochs between prunings of GMP.")
flags.DEFINE_integer("width", 16, "Filters of the first convolution.")
flags.DEFINE_integer("batch_size", 128, "Images per step.")
flags.DEFINE_float("learning_rate", 0.1, "At the start.")
flags.DEFINE_float("weight_decay", 5e-4, "Coupled.")
flags.DEFINE_integer("processes", 2, "Runs at a time, for the accuracies.")
flags.DEFINE_integer("rounds", 60, "Turns of each method; 0 for none.")
flags.DEFINE_integer("turn_steps", 20, "Steps of a turn.")
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps data.")
flags.DEFINE_string("output_dir", "output/beside_tfmot", "Where to write.")
flags.mark_flag_as_required("tfmot_python")


def run_of(dataset, method, target_sparsity, seed):
    return {
        "dataset": dataset,
        "subset": FLAGS.subset,
        "method": method,
        "target_sparsity": target_sparsity,
        "epochs": FLAGS.epochs,
        "interval": FLAGS.interval,
        "allocation": "global" if method == "gmp" else "uniform",
        "width": FLAGS.width,
        "batch_size": FLAGS.batch_size,
        "learning_rate": FLAGS.learning_rate,
        "weight_decay": FLAGS.weight_decay,
        "seed": seed,
    }


def all_runs():
    targets = [float(target) for target in FLAGS.target_sparsity]
    for seed, dataset, method in itertools.product(
        map(int, FLAGS.seed), FLAGS.dataset, FLAGS.method
    ):
        for target in [0.0] if method in tfmot_tables.DENSE else targets:
            yield run_of(dataset, method, target, seed)


def write_data(dataset, folder):
    """Writes the images for the processes, once.

    Returns:
        The path of the file.
    """
    path = folder / f"{dataset}_{FLAGS.subset}.npz"
    if not path.exists():
        task = data.load(
            dataset,
            data_dir=FLAGS.data_dir,
            subset=FLAGS.subset,
            augment=False,
        )
        x, y = arrays_of(task.train)
        x_test, y_test = arrays_of(task.test)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, x=x, y=y, x_test=x_test, y_test=y_test)
        partial.rename(path)
    return path


def arrays_of(dataset):
    pairs = list(dataset.as_numpy_iterator())
    return [np.concatenate(part) for part in zip(*pairs, strict=True)]


def start(run, path, threads):
    """Starts a process for a run."""
    theirs = run["method"] in THEIRS
    side = "tfmot_side" if theirs else "keras_bimp_side"
    environment = os.environ | {
        "KERAS_BACKEND": "tensorflow",
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": str(threads),
        "PYTHONPATH": str(STUDY.absolute()),
    }
    if not theirs and "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] += os.pathsep + os.environ["PYTHONPATH"]
    return subprocess.Popen(
        [
            FLAGS.tfmot_python if theirs else sys.executable,
            "-m",
            f"tfmot_peer.{side}",
            json.dumps(run),
            str(path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )


def carry_out(run, path, threads):
    process = start(run, path, threads)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a process of {run['method']} failed: see above")
    return json.loads(output.splitlines()[-1])


def read_lines(path):
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def append_line(path, entry):
    with path.open("a") as file:
        file.write(f"{json.dumps(entry)}\n")


def accuracies(folder, paths):
    """Executes the runs that are not finished yet.

    Returns:
        Pairs of a run and its results, for all requested runs.
    """
    file = folder / "runs.jsonl"
    finished = {
        json.dumps(entry["run"]): entry["found"] for entry in read_lines(file)
    }
    runs = list(all_runs())
    missing = [run for run in runs if json.dumps(run) not in finished]
    threads = max(1, os.cpu_count() // FLAGS.processes)

    def work(run):
        return run, carry_out(run, paths[run["dataset"]], threads)

    with multiprocessing.pool.ThreadPool(FLAGS.processes) as pool:
        for run, found in pool.imap_unordered(work, missing):
            append_line(file, {"run": run, "found": found})
            finished[json.dumps(run)] = found
            print(
                f"{run['dataset']}, {run['method']}, "
                f"{run['target_sparsity']:.0%}, seed {run['seed']}: "
                f"{found['accuracy']:.2f}%",
                flush=True,
            )
    return [(run, finished[json.dumps(run)]) for run in runs]


def next_line(process):
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a process that trains in turns failed: see above")
    return line.strip()


def take_turns(folder, path):
    """Trains the methods in turns.

    Returns:
        For each round, a dict: method -> seconds of an epoch.
    """
    dataset = FLAGS.dataset[0]
    target = float(FLAGS.target_sparsity[0])
    settings = run_of(dataset, None, target, 0) | {
        "turn_steps": FLAGS.turn_steps
    }
    file = folder / "rounds.jsonl"
    rounds = [e["seconds"] for e in read_lines(file) if e["run"] == settings]
    missing = FLAGS.rounds - len(rounds)
    if missing <= 0:
        return rounds[: FLAGS.rounds]
    # The first epoch traces the step and is not timed. Neither is the last,
    # because the end of a process would disturb the others' turns.
    epochs = max(missing + 2, 8)
    of_turns = {
        "turn_steps": FLAGS.turn_steps,
        "epochs": epochs,
        "interval": max(1, epochs // 10),
    }
    with contextlib.ExitStack() as stack:
        processes = {}
        for method in FLAGS.method:
            run = run_of(dataset, method, target, 0) | of_turns
            process = start(run, path, os.cpu_count())
            stack.callback(process.wait)
            stack.callback(process.terminate)
            processes[method] = process
        for process in processes.values():
            next_line(process)  # It is ready.
        order = list(processes)
        for _ in range(missing):
            seconds = {}
            for method in order:
                print(file=processes[method].stdin, flush=True)
                seconds[method] = float(next_line(processes[method]))
            rounds.append(seconds)
            append_line(file, {"run": settings, "seconds": seconds})
            order.reverse()
    return rounds


def main(_):
    logging.set_verbosity(logging.WARNING)
    folder = pathlib.Path(FLAGS.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: write_data(name, folder) for name in FLAGS.dataset}
    results = accuracies(folder, paths)
    rounds = take_turns(folder, paths[FLAGS.dataset[0]]) if FLAGS.rounds else []
    text = tfmot_tables.as_markdown(
        results, rounds, FLAGS.turn_steps * FLAGS.batch_size
    )
    (folder / "tables.md").write_text(f"{text}\n")
    print(f"\n{text}")


if __name__ == "__main__":
    app.run(main)
