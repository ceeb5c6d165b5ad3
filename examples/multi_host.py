"""Prunes the network of digits.py in several processes, on one host or many.

Each process runs this script. With the JAX backend, Keras' `DataParallel`
gives each process a part of every batch. All prune the same weights.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
from absl import app
from absl import flags
from absl import logging
from digits_network import build_model
from digits_network import load_data

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "coordinator", "localhost:9876", "Address and port of process 0."
)
flags.DEFINE_integer("process_count", 1, "Number of processes.")
flags.DEFINE_integer("process_index", 0, "Index of this process, from 0.")
flags.DEFINE_integer("batch_size", 64, "Images per step, over all processes.")


def own_part(data):
    """Returns the images for this process, the same number for each."""
    length = len(data[0]) // FLAGS.process_count * FLAGS.process_count
    return [
        array[FLAGS.process_index : length : FLAGS.process_count]
        for array in data
    ]


def main(_):
    logging.set_verbosity(logging.WARNING)
    if FLAGS.process_count > 1:
        # For communication between CPUs; GPUs use NCCL.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        keras.distribution.initialize(
            FLAGS.coordinator, FLAGS.process_count, FLAGS.process_index
        )
    # Before any variable is created. Each process reads its part of the data.
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(auto_shard_dataset=False)
    )
    keras.utils.set_random_seed(FLAGS.seed)  # The same in all processes.
    first = FLAGS.process_index == 0
    train, test = map(own_part, load_data())
    model = keras_bimp.wrap(build_model())
    model.fit(
        *train,
        epochs=FLAGS.epochs,
        batch_size=FLAGS.batch_size // FLAGS.process_count,
        verbose=2 if first else 0,
        callbacks=keras_bimp.callbacks(
            FLAGS.target_sparsity,
            dense_epochs=FLAGS.dense_epochs,
            cycles=FLAGS.cycles,
            retraining=FLAGS.retraining,
            allocation="global",
            verbose=int(first),
        ),
    )
    sparse = keras_bimp.strip(model)
    _, accuracy = sparse.evaluate(*test, verbose=0)
    sparsity = keras_bimp.sparsity(sparse).prunable
    if first:
        # Saving creates variables, which must belong to this process only.
        keras.distribution.set_distribution(None)
        os.makedirs(FLAGS.output_dir, exist_ok=True)
        path = os.path.join(FLAGS.output_dir, "model.keras")
        sparse.save(path)
        print(
            f"{len(jax.devices())} devices in {FLAGS.process_count} processes: "
            f"test accuracy {accuracy:.2%}, sparsity {sparsity:.2%}, in {path}"
        )


if __name__ == "__main__":
    app.run(main)
