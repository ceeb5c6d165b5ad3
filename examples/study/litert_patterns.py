"""Measures which patterns of zeros are faster in LiteRT.

Trains a network of three dense layers of 1,024 units on Fashion-MNIST, prunes
it unstructured and in blocks of two orientations, exports each with sparse
tensors, and compares its speed with the dense network. The files take turns.
"""

import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import data
import keras
import numpy as np
from absl import app
from absl import flags
from absl import logging
from keras import layers

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_list("sparsities", ["0.9", "0.95", "0.98"], "Target sparsities.")
flags.DEFINE_integer("epochs", 12, "Total budget.")
flags.DEFINE_integer("dense_epochs", 6, "Epochs before the pruning.")
flags.DEFINE_integer("rounds", 300, "Turns of each file.")
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps data.")

PATTERNS = {
    "anywhere": "weight",
    "1x4": "1x4",
    "4 outputs": keras_bimp.selection.Block((1, 4)),
}


def train(task, sparsity, granularity):
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(1024, activation="relu") for _ in range(3)]
    model = keras.Sequential(
        [keras.Input((28, 28, 1)), layers.Flatten(), *hidden, layers.Dense(10)]
    )
    callbacks = []
    if sparsity:
        model = keras_bimp.wrap(model)
        callbacks = keras_bimp.callbacks(
            sparsity,
            dense_epochs=FLAGS.dense_epochs,
            cycles=1,
            retraining="allr",
            allocation=None,
            granularity=granularity,
            verbose=0,
        )
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(task.train, epochs=FLAGS.epochs, callbacks=callbacks, verbose=0)
    accuracy = model.evaluate(task.test, verbose=0)[1]
    return (keras_bimp.strip(model) if sparsity else model), accuracy


def load(path, images):
    """Returns a function that runs a file in one thread."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    (given,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(given["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], images)
    return interpreter.invoke


def ratios(paths, images):
    """Returns the speedup of each relative to the first, in turns."""
    functions = [load(path, images) for path in paths]
    times = [[] for _ in functions]
    for round_ in range(-5, FLAGS.rounds):
        for function, found in zip(functions, times, strict=True):
            begin = time.perf_counter()
            function()
            if round_ >= 0:
                found.append(time.perf_counter() - begin)
    times = np.array(times)
    return np.percentile(times[0] / times, (50, 25, 75), axis=1).T


def main(_):
    logging.set_verbosity(logging.WARNING)
    task = data.load("fashion_mnist", data_dir=FLAGS.data_dir)
    images = next(iter(task.test))[0][:16].numpy()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model, accuracy = train(task, 0, None)
        path = folder / "dense.tflite"
        rows = [("dense", accuracy, path, "")]
        keras_bimp.export(model, path, "litert", verbose=0)
        for sparsity in map(float, FLAGS.sparsities):
            for name, granularity in PATTERNS.items():
                model, accuracy = train(task, sparsity, granularity)
                path = folder / f"{len(rows)}.tflite"
                written = keras_bimp.export(
                    model, path, "litert", sparse_tensors=True, verbose=0
                )
                choices = written.sparse_kernels.choices
                count = sum(choice.sparse for choice in choices)
                said = f"{count} of {len(choices)} kernels"
                rows.append((f"{sparsity:.0%}, {name}", accuracy, path, said))
        paths = [path for *_, path, _ in rows]
        one, many = (ratios(paths, images[:n]) for n in (1, 16))
        print(
            "| zeros | accuracy | sparse kernels | bytes | 1 image | 16 images "
            "|\n|---|---|---|---|---|---|"
        )
        for i, (name, accuracy, path, said) in enumerate(rows):
            times = (
                "{:.2f} [{:.2f}, {:.2f}]".format(*found[i])
                for found in (one, many)
            )
            print(
                f"| {name} | {accuracy:.2%} | {said} | "
                f"{path.stat().st_size:,} | {' | '.join(times)} |"
            )


if __name__ == "__main__":
    app.run(main)
