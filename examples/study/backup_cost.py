"""Measures the cost of a backup against `np.save` and `fsync`.

A model of 25 million weights, trained with Adam, is backed up before each epoch
of a `fit`. Then the same arrays are written to new files with `np.save` and
synced. Prints the ratio of the times.
"""

import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app
from absl import flags
from keras import ops

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 11, "How often to write each.")
flags.DEFINE_integer("units", 5000, "The kernel has this number squared.")
flags.DEFINE_string("folder", None, "Where to write. Defaults to a new one.")


class Start(keras.callbacks.Callback):
    """Starts the clock; listed before `Backup`."""

    begin = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        os.sync()
        Start.begin = time.perf_counter()


class Compare(keras.callbacks.Callback):
    """Times `Backup`, then `np.save`; listed after `Backup`."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self.rounds = []

    def on_epoch_begin(self, epoch, logs=None):
        backup = time.perf_counter() - Start.begin
        variables = self.model.variables + self.model.optimizer.variables
        arrays = [ops.convert_to_numpy(v.value) for v in variables]
        os.sync()
        begin = time.perf_counter()
        for i, array in enumerate(arrays):
            with open(self.folder / f"{epoch}_{i}.npy", "wb") as file:
                np.save(file, array)
                file.flush()
                os.fsync(file.fileno())
        saved = time.perf_counter() - begin
        for path in self.folder.glob(f"{epoch - 2}_*.npy"):
            path.unlink()  # Two generations, as in `Backup`.
        self.rounds.append((backup, saved, sum(a.nbytes for a in arrays)))


def main(_):
    model = keras.Sequential(
        [
            keras.Input((FLAGS.units,)),
            keras.layers.Dense(FLAGS.units, use_bias=False),
        ]
    )
    model.compile("adam", "mse")
    with tempfile.TemporaryDirectory(dir=FLAGS.folder) as folder:
        compare = Compare(pathlib.Path(folder))
        keras_bimp.fit(
            model,
            np.zeros((1, FLAGS.units)),
            np.zeros((1, FLAGS.units)),
            epochs=FLAGS.rounds + 1,
            verbose=0,
            callbacks=[
                Start(),
                keras_bimp.Backup(compare.folder / "backup", verbose=0),
                compare,
            ],
        )
    rounds = np.array(compare.rounds[1:])
    ratios = rounds[:, 0] / rounds[:, 1]
    low, median, high = np.quantile(ratios, [0, 0.5, 1])
    print(
        f"{model.count_params():,} weights, {rounds[0, 2] / 1e6:,.0f} MB, "
        f"{len(rounds)} rounds on {keras.backend.backend()}: backup / np.save "
        f"{median:.2f} [{low:.2f}, {high:.2f}]; medians "
        f"{np.median(rounds[:, 0]):.3f} s and {np.median(rounds[:, 1]):.3f} s"
    )


if __name__ == "__main__":
    app.run(main)
