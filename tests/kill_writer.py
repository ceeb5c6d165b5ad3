"""Kills writers of backups repeatedly, and counts unreadable backups.

Run this script manually. Figures are in docs/results.md. It also tries Keras'
`BackupAndRestore`, which writes the same arrays.
"""

import importlib.util
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np
from absl import app
from absl import flags

MODULE = (
    pathlib.Path(__file__).parent.parent
    / "keras_bimp"
    / "_src"
    / "backup"
    / "generations.py"
)
SIZES = (1, 1000, 300_000)

# The whole process: NumPy, the standard library, and the module. Prints each
# write; with a `pause` each write stops halfway.
WRITER = """
import importlib.util, sys, time
import numpy as np

path, folder, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])
spec = importlib.util.spec_from_file_location("generations", path)
generations = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generations)
assert "keras" not in sys.modules and "tensorflow" not in sys.modules
write = generations._write

def slow_write(file, data):
    half = len(data) // 2
    write(file, data[:half])
    time.sleep(pause)
    write(file, data[half:])

if pause:
    generations._write = slow_write
keeper = generations.Generations(folder)
keeper.prepare()
state = keeper.read()
number = 0 if state is None else state["number"]
while True:
    number += 1
    arrays = [np.full(n, number, "float32") for n in map(int, sys.argv[4:])]
    keeper.write({"number": number, "arrays": arrays})
    print(number, flush=True)
"""


def load_generations():
    spec = importlib.util.spec_from_file_location("generations", MODULE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kill_ours(folder, kills, rng):
    """Kills our writer, and returns counts by outcome."""
    generations = load_generations()
    keeper = generations.Generations(folder)
    found = dict.fromkeys(
        ("kills", "in a write", "unreadable", "lost", "warnings"), 0
    )
    for kill in range(kills):
        # Every second writer is slow.
        pause = 0.005 * (kill % 2)
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                WRITER,
                MODULE,
                folder,
                str(pause),
                *map(str, SIZES),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        process.stdout.readline()  # It has started.
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        said = process.communicate()[0].split()
        found["kills"] += 1
        found["in a write"] += any(folder.glob("*.unfinished"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                state = keeper.read()
            except generations.UnreadableError:
                state = None
        found["warnings"] += len(caught)
        if state is None or not all(
            (array == state["number"]).all() and array.size == size
            for array, size in zip(state["arrays"], SIZES, strict=True)
        ):
            found["unreadable"] += 1
        elif said and state["number"] < int(said[-1]):
            found["lost"] += 1
    return found


def kill_kerass(folder, kills, rng, **options):
    """Kills Keras' callback in forks of this process."""
    os.environ["KERAS_BACKEND"] = "numpy"
    import keras

    inputs = keras.Input((1,))
    model = keras.Model(
        inputs,
        [keras.layers.Dense(size, use_bias=False)(inputs) for size in SIZES],
    )
    model.compile(keras.optimizers.SGD(), "mse")

    def callback():
        backup = keras.callbacks.BackupAndRestore(folder, **options)
        backup.set_model(model)
        return backup

    found = dict.fromkeys(("kills", "unreadable", "mixed"), 0)
    number = 0
    for _ in range(kills):
        child = os.fork()
        if not child:
            backup = callback()
            while True:
                number += 1
                for variable in model.weights:
                    variable.assign(np.full(variable.shape, number, "float32"))
                backup.on_epoch_end(number - 1)
        time.sleep(rng.uniform(0.05, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found["kills"] += 1
        model._initial_epoch = None
        try:
            callback().on_train_begin()
        except Exception:
            found["unreadable"] += 1
            for path in pathlib.Path(folder).glob("*"):
                path.unlink()
            continue
        numbers = {float(n) for v in model.weights for n in np.unique(v)}
        number = model._initial_epoch or 0
        found["mixed"] += numbers != {number}
    return found


def main(_):
    given = flags.FLAGS
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        found = kill_ours(pathlib.Path(folder), given.kills, rng)
        print(f"ours: {found}, {time.monotonic() - begin:.0f} s", flush=True)
    for options in ({}, {"double_checkpoint": True}):
        with tempfile.TemporaryDirectory() as folder:
            found = kill_kerass(folder, given.keras_kills, rng, **options)
            print(f"BackupAndRestore {options}: {found}", flush=True)


if __name__ == "__main__":
    flags.DEFINE_integer("kills", 1000, "How often to kill our writer.")
    flags.DEFINE_integer("keras_kills", 100, "How often Keras', in each mode.")
    flags.DEFINE_integer("seed", 0, "Random seed of the moments.")
    app.run(main)
