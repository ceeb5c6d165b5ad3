"""Kills examples/digits.py repeatedly, and compares the results.

Run this script manually, because it takes long. Figures are in docs/results.md.
Each run is killed at random moments and started again until it ends. Then its
weights, history and summary must be bit-identical to those of an uninterrupted
run. `KERAS_BACKEND` sets the backend.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import h5py
import numpy as np
from absl import app
from absl import flags

from keras_bimp._src.backup import Generations
from keras_bimp.backup import UnreadableError

FLAGS = flags.FLAGS
flags.DEFINE_integer("runs", 5, "How many runs to kill.")
flags.DEFINE_integer("kills", 8, "How often to kill each.")
flags.DEFINE_integer("epochs", 12, "Epochs of each run.")
flags.DEFINE_integer("seed", 0, "Random seed of the moments.")

EXAMPLE = pathlib.Path(__file__).parent.parent / "examples" / "digits.py"


def start(folder, save_freq):
    return subprocess.Popen(
        [
            sys.executable,
            EXAMPLE,
            f"--epochs={FLAGS.epochs}",
            f"--dense_epochs={FLAGS.epochs // 3}",
            "--cycles=2",
            f"--save_freq={save_freq}",
            f"--output_dir={folder}",
        ],
        env={
            **os.environ,
            "PYTHONPATH": str(EXAMPLE.parent.parent),
            "TF_DETERMINISTIC_OPS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate()
    if process.returncode:
        print(output)
    return process.returncode, output


def unreadable_states(folder):
    """Counts unreadable state files and folders."""
    unreadable = 0
    for part in ("dense", "sparse"):
        try:
            Generations(folder / "backup" / part).read()
        except UnreadableError:
            unreadable += 1
    return unreadable


def results(folder):
    summary = json.loads((folder / "summary.json").read_text())
    del summary["seconds"]
    history = json.loads((folder / "history.json").read_text())
    with tempfile.TemporaryDirectory() as unzipped:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "zipfile",
                "-e",
                str(folder / "model.keras"),
                unzipped,
            ],
            check=True,
        )
        with h5py.File(pathlib.Path(unzipped, "model.weights.h5")) as file:
            weights = {}
            file.visititems(
                lambda name, item: (
                    weights.update({name: np.array(item)})
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
    return summary, history, weights


def same(one, other):
    return one[:2] == other[:2] and all(
        np.array_equal(one[2].get(name), other[2].get(name))
        for name in one[2] | other[2]
    )


def main(_):
    rng = random.Random(FLAGS.seed)
    kills = restarts = failures = unreadable = different = 0
    resumed = 0
    for run in range(FLAGS.runs):
        # Every second run is also backed up within epochs.
        save_freq = 5 * (run % 2)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            begin = time.monotonic()
            code, _ = finish(start(folder / "undisturbed", save_freq))
            assert code == 0
            length = time.monotonic() - begin
            here = folder / "killed"
            killed = 0
            while killed < FLAGS.kills:
                process = start(here, save_freq)
                # About a third of the time is startup.
                wait = rng.uniform(0.25, 0.7) * length
                try:
                    process.wait(wait)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    killed += 1
                else:
                    failures += process.returncode != 0
                output, _ = process.communicate()
                resumed += "Resumes at epoch" in output or "were done" in output
                restarts += 1
                unreadable += unreadable_states(here)
            kills += killed
            code, output = finish(start(here, save_freq))
            resumed += "Resumes at epoch" in output or "were done" in output
            failures += code != 0
            equal = same(results(folder / "undisturbed"), results(here))
            different += not equal
            print(
                f"run {run + 1}: save_freq {save_freq}, undisturbed "
                f"{length:.1f} s; {'the same' if equal else 'DIFFERENT'}",
                flush=True,
            )
    print(
        f"kills {kills}, restarts {restarts}, of which {resumed} took up a "
        f"run before; failures {failures}, unreadable states {unreadable}, "
        f"different results {different}"
    )


if __name__ == "__main__":
    app.run(main)
