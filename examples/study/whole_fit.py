"""Measures the cost of a whole `fit`, with pruning and without.

Two small networks of the same shape train in turns in one process: one dense,
one wrapped and pruned four times in six epochs. Each round times both,
including compilation, and gives one ratio. Prints the median and quartiles of
the ratios.
"""

import os
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
import numpy as np
from absl import app
from absl import flags

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 7, "Number of rounds.")
flags.DEFINE_integer("steps", 625, "Steps of an epoch, of 32 examples each.")
flags.DEFINE_boolean("backup", False, "Whether to back up after each epoch.")


def build_model():
    """Builds three dense layers, 26,000 weights."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def fit(model, callbacks=()):
    """Returns the seconds that a `fit` took."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((FLAGS.steps * 32, 64)).astype("float32")
    y = rng.integers(0, 10, len(x))
    begin = time.perf_counter()
    model.fit(x, y, 32, epochs=6, verbose=0, callbacks=[*callbacks])
    return time.perf_counter() - begin


def fit_pruned():
    with tempfile.TemporaryDirectory() as folder:
        callbacks = keras_bimp.callbacks(
            0.9,
            dense_epochs=2,
            cycles=4,
            backup_dir=folder if FLAGS.backup else None,
            verbose=0,
        )
        return fit(keras_bimp.wrap(build_model()), callbacks)


def main(_):
    ratios = []
    for i in range(FLAGS.rounds + 1):
        if i % 2:
            pruned, dense = fit_pruned(), fit(build_model())
        else:
            dense, pruned = fit(build_model()), fit_pruned()
        if i:  # The first round warms up.
            ratios.append(pruned / dense)
            print(f"dense {dense:.2f} s, pruned {pruned:.2f} s", flush=True)
    low, median, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    print(
        f"{keras.backend.backend()}: pruned / dense "
        f"{median:.3f} [{low:.3f}, {high:.3f}]"
    )


if __name__ == "__main__":
    app.run(main)
