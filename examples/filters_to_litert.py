"""Prunes and removes filters on Fashion-MNIST, and runs the result in LiteRT.

Trains a dense residual network for half of the epochs. Then it prunes the
filters that matter least in three cycles, along a residual stream together, and
retrains. The pruned filters are then removed, which makes the network smaller
and faster in any runtime. It is exported for phones twice, with 32-bit and with
8-bit weights, and both files are run in LiteRT on the test images. They are
compared with a dense network, trained for the same number of epochs.
"""

import os
import pathlib
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
import numpy as np
import rich.console
import rich.table
from absl import app
from absl import flags
from absl import logging
from common import build_residual_network
from common import load_fashion_mnist

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_float("target_sparsity", 0.5, "Fraction of filters to prune.")
flags.DEFINE_integer("epochs", 20, "Total budget, for each network.")
flags.DEFINE_integer("cycles", 3, "How often to prune and retrain.")
flags.DEFINE_integer("hidden_units", 0, "Units of a layer before the last.")
flags.DEFINE_float("learning_rate", 0.1, "Largest learning rate.")
flags.DEFINE_integer("seed", 0, "Random seed.")
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps data.")
flags.DEFINE_string("output_dir", "output/filters", "Where to write.")


def print_progress(epoch, logs):
    print(
        f"epoch {epoch + 1:2d}/{FLAGS.epochs}  "
        f"train {logs['accuracy']:.2%}  test {logs['val_accuracy']:.2%}  "
        f"sparsity {logs.get('sparsity', 0):.2%}",
        flush=True,
    )


def train(data, sparse):
    """Trains a network, dense or with pruned filters."""
    (x, y), test = data
    keras.utils.set_random_seed(FLAGS.seed)
    model = build_residual_network(hidden_units=FLAGS.hidden_units)
    rate, callbacks = FLAGS.learning_rate, []
    if sparse:
        model = keras_bimp.wrap(model)
        callbacks = keras_bimp.callbacks(
            FLAGS.target_sparsity,
            dense_epochs=FLAGS.epochs // 2,
            cycles=FLAGS.cycles,
            retraining="allr",
            granularity="filter",
            allocation="coupled",
        )
    else:
        steps = FLAGS.epochs * -(-len(x) // 128)
        rate = keras_bimp.schedules.Linear(rate, steps)
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=True,
    )
    model.fit(
        x,
        y,
        batch_size=128,
        epochs=FLAGS.epochs,
        validation_data=test,
        validation_batch_size=1000,
        callbacks=[
            *callbacks,
            keras.callbacks.LambdaCallback(on_epoch_end=print_progress),
        ],
        verbose=0,
    )
    return keras_bimp.strip(model) if sparse else model


def new_path(name):
    """Returns a path in the output folder after deleting what is there."""
    path = pathlib.Path(FLAGS.output_dir, name)
    path.unlink(missing_ok=True)
    return path


def load(path, batch_size):
    """Returns an interpreter for a fixed batch size."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    (given,) = interpreter.get_input_details()
    shape = (batch_size, *given["shape"][1:])
    interpreter.resize_tensor_input(given["index"], shape)
    interpreter.allocate_tensors()
    return interpreter


def predict(interpreter, images):
    (given,) = interpreter.get_input_details()
    (found,) = interpreter.get_output_details()
    interpreter.set_tensor(given["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(found["index"])


def accuracy_of(path, test):
    images, labels = test
    images = images.reshape(-1, 100, *images.shape[1:])
    interpreter = load(path, 100)
    outputs = np.concatenate([predict(interpreter, part) for part in images])
    return np.mean(outputs.argmax(-1) == labels)


def latencies(paths, image, rounds=200):
    """Returns the median milliseconds for one image; the files take turns."""
    interpreters = [load(path, 1) for path in paths]
    times = [[] for _ in paths]
    for _ in range(rounds):
        for interpreter, found in zip(interpreters, times, strict=True):
            begin = time.perf_counter()
            predict(interpreter, image)
            found.append(1000 * (time.perf_counter() - begin))
    return [statistics.median(found) for found in times]


def main(_):
    logging.set_verbosity(logging.WARNING)
    pathlib.Path(FLAGS.output_dir).mkdir(parents=True, exist_ok=True)
    data = load_fashion_mnist(FLAGS.data_dir)
    (x, _), test = data
    print(f"Training a dense network for {FLAGS.epochs} epochs")
    dense = train(data, sparse=False)
    print(
        f"\nTraining for as many epochs, pruning {FLAGS.target_sparsity:.0%} "
        "of the filters"
    )
    pruned = train(data, sparse=True)
    small = keras_bimp.shrink(pruned)
    small.save(new_path("model.keras"))
    eight_bits = {"quantize": "int8", "calibration_data": x[:500]}
    models = {
        "dense": (dense, {}),
        "zeros in place": (pruned, {}),
        "shrunk": (small, {}),
        "dense, 8 bits": (dense, eight_bits),
        "shrunk, 8 bits": (small, eight_bits),
    }
    paths = [
        keras_bimp.export(
            model,
            new_path(f"{name.replace(', ', '_').replace(' ', '_')}.tflite"),
            format="litert",
            **options,
        )
        for name, (model, options) in models.items()
    ]
    table = rich.table.Table(title="\nIn LiteRT, one thread")
    for title in (
        "", "test accuracy", "multiply-adds", "file", "one image",
    ):  # fmt: skip
        table.add_column(title, justify="right" if title else "left")
    milliseconds = latencies(paths, test[0][:1])
    for (name, (model, _)), path, time_ in zip(
        models.items(), paths, milliseconds, strict=True
    ):
        table.add_row(
            name,
            f"{accuracy_of(path, test):.2%}",
            f"{keras_bimp.metrics.count_macs(model).dense:,}",
            f"{path.stat().st_size / 1000:,.1f} kB",
            f"{time_:.3f} ms",
        )
    rich.console.Console().print(table)


if __name__ == "__main__":
    app.run(main)
