"""Measures the cost of pruning and packing a large model.

A stack of dense layers is pruned, and the peak memory that this takes in
addition to the model is read from Linux. Then the model is saved by Keras and
exported as a packed file, in turns. The loaded packed file is compared with the
model bit by bit.
"""

import os
import pathlib
import re
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
import numpy as np
from absl import app
from absl import flags
from keras import layers

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_integer("layers", 44, "Layers, of 4.2 million weights each.")
flags.DEFINE_float("target_sparsity", 0.9, "Target; 0 prunes nothing.")
flags.DEFINE_integer("rounds", 1, "Number of rounds of saving and packing.")

WIDTH = 2048


def build(width, depth):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((width,)), *(layers.Dense(width) for _ in range(depth))]
    )


def memory(key):
    """Returns the bytes of this process: `VmRSS` now, `VmHWM` at its peak."""
    text = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{key}:\s+(\d+)", text)[1])


def prune(model):
    """Prunes a wrapped model, and prints time and memory."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # Resets the peak.
    before, start = memory("VmRSS"), time.perf_counter()
    keras_bimp.prune(model, FLAGS.target_sparsity)
    seconds = time.perf_counter() - start
    taken = memory("VmHWM") - before
    size = sum(4 * kernel.size for kernel in model.wrapper.kernels)
    print(
        f"pruning: {seconds:.1f} s, {taken / 1e6:,.0f} MB beyond the model, "
        f"{taken / size:.2f} of its weights"
    )


def timed(function, *args, **kwargs):
    start = time.perf_counter()
    function(*args, **kwargs)
    return time.perf_counter() - start


def pack(model, folder):
    """Runs one round; returns seconds of saving and packing, and sizes."""
    saved, packed = folder / "model.keras", folder / "model.packed"
    for path in (saved, packed):
        path.unlink(missing_ok=True)
    seconds = timed(model.save, saved)
    return (
        seconds,
        timed(keras_bimp.export, model, packed, "packed", verbose=0),
        saved.stat().st_size,
        packed.stat().st_size,
    )


def main(_):
    model = keras_bimp.wrap(build(WIDTH, FLAGS.layers))
    print(f"{model.count_params():,} weights")
    if FLAGS.target_sparsity:
        keras_bimp.prune(keras_bimp.wrap(build(8, 2)), 0.5)  # Imports the rest.
        prune(model)
    model = keras_bimp.strip(model)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        rounds = [pack(model, folder) for _ in range(FLAGS.rounds)]
        saving, packing, large, small = rounds[-1]
        ratio = statistics.median(ours / keras for keras, ours, *_ in rounds)
        print(
            f"packing: {packing:.1f} s, {ratio:.1f} times Keras' own save "
            f"({saving:.1f} s); {small / 1e6:,.1f} MB of {large / 1e6:,.1f} MB"
        )
        again = keras_bimp.exporting.load_packed(folder / "model.packed")
        for one, other in zip(model.weights, again.weights, strict=True):
            assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


if __name__ == "__main__":
    app.run(main)
