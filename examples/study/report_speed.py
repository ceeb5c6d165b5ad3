"""Times a report of ResNet-50, which has 25.6 million parameters."""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from absl import app
from absl import flags

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 3, "Number of reports.")
flags.DEFINE_float("target_sparsity", 0.9, "Sparsity of the network.")
flags.DEFINE_boolean("latency", False, "Whether to also time predictions.")


def main(_):
    model = keras_bimp.wrap(keras.applications.ResNet50(weights=None))
    keras_bimp.prune(model, FLAGS.target_sparsity)
    for _ in range(FLAGS.rounds):
        begin = time.perf_counter()
        keras_bimp.report(model, latency=FLAGS.latency, verbose=0)
        print(f"{time.perf_counter() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    app.run(main)
