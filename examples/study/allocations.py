"""Compares allocations on a network whose kernels differ in scale.

Before batch normalization the scale of a convolution is arbitrary, so the
smallest weights of a network may all be in one kernel. Pruning 98% of all
weights once by plain global magnitude, with `--on_collapse=ignore`, then leaves
almost nothing of that kernel, and no retraining brings the network far above
chance. With `--on_collapse=protect`, the default of `keras_bimp.callbacks`,
each kernel keeps at least one weight per output unit. Other allocations do not
compare magnitudes of different kernels.

Trains on 12,000 images of Fashion-MNIST: one dense network per seed, and from
it one sparse network for each allocation, target sparsity and number of cycles.
Each finished run is a line of `--results` and is not repeated.
"""

import csv
import itertools
import os
import pathlib
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
import numpy as np
import tensorflow_datasets as tfds
from absl import app
from absl import flags
from absl import logging

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "allocation",
    ["global", "uniform", "erk", "lamp", "relative"],
    "Allocations to compare.",
)
flags.DEFINE_list("on_collapse", ["protect"], "protect, raise or ignore.")
flags.DEFINE_list("target_sparsity", ["0.95", "0.98", "0.99"], "To prune to.")
flags.DEFINE_list("cycles", ["1", "3"], "Numbers of prunings.")
flags.DEFINE_list("seed", ["0"], "Random seeds.")
flags.DEFINE_integer("dense_epochs", 15, "Epochs before the first pruning.")
flags.DEFINE_integer("retrain_epochs", 15, "Epochs after it, in total.")
flags.DEFINE_string("results", "output/allocations.csv", "File of results.")
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps data.")

KEYS = ("seed", "target_sparsity", "cycles", "allocation", "on_collapse")


def load_data():
    """Returns 12,000 training and 10,000 test images, in [0, 1]."""
    parts = []
    for split in ("train[:12000]", "test"):
        images, labels = tfds.as_numpy(
            tfds.load(
                "fashion_mnist",
                split=split,
                data_dir=FLAGS.data_dir,
                as_supervised=True,
                batch_size=-1,
            )
        )
        parts.append((images.astype("float32") / 255, labels))
    return parts


def build_model(seed):
    """Builds four convolutions and a dense layer, 33,040 prunable weights."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((28, 28, 1))])
    for filters, strides in ((16, 2), (32, 1), (32, 2), (64, 1)):
        model.add(
            keras.layers.Conv2D(
                filters, 3, strides, padding="same", use_bias=False
            )
        )
        model.add(keras.layers.BatchNormalization())
        model.add(keras.layers.ReLU())
    model.add(keras.layers.GlobalAveragePooling2D())
    model.add(keras.layers.Dense(10))
    return model


def compile_model(model):
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # Compiling takes longer than an epoch.
    )
    return model


def train_dense(seed, x, y):
    """Returns the weights of a dense network."""
    model = compile_model(build_model(seed))
    steps = FLAGS.dense_epochs * -(-len(x) // 128)
    model.optimizer.learning_rate = keras_bimp.schedules.Linear(0.1, steps)
    model.fit(x, y, epochs=FLAGS.dense_epochs, batch_size=128, verbose=0)
    return model.get_weights()


def retrain(weights, x, y, run):
    """Prunes and retrains the dense network, and returns it stripped."""
    keras.backend.clear_session()
    plain = build_model(int(run["seed"]))
    plain.set_weights(weights)
    model = compile_model(keras_bimp.wrap(plain))
    model.fit(
        x,
        y,
        epochs=FLAGS.retrain_epochs,
        batch_size=128,
        callbacks=keras_bimp.callbacks(
            float(run["target_sparsity"]),
            dense_epochs=0,
            cycles=int(run["cycles"]),
            retraining="allr",
            original_epochs=FLAGS.dense_epochs,
            allocation=run["allocation"],
            on_collapse=run["on_collapse"],
            verbose=0,
        ),
        verbose=0,
    )
    return keras_bimp.strip(model)


def summary(model, test):
    kernels = [
        variable.numpy()
        for variable in model.trainable_variables
        if variable.name == "kernel"
    ]
    return {
        "accuracy": model.evaluate(*test, batch_size=1000, verbose=0)[1],
        "left": " ".join(str(np.count_nonzero(kernel)) for kernel in kernels),
    }


def read_results(path):
    if not path.exists():
        return {}
    with open(path, newline="") as file:
        return {
            tuple(row[key] for key in KEYS): row for row in csv.DictReader(file)
        }


def add_result(path, row):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, [*KEYS, "dense", "accuracy", "left"])
        if not file.tell():
            writer.writeheader()
        writer.writerow(row)


def print_table(rows):
    """Prints a row per kind of pruning: mean and spread over the seeds."""
    seeds = sorted({row["seed"] for row in rows})
    dense = {row["seed"]: 100 * float(row["dense"]) for row in rows}
    print(
        f"\nTest accuracy in %, seeds {', '.join(seeds)}; dense "
        f"{mean_and_spread(dense.values())}. Weights left in each kernel: "
        f"seed {seeds[0]}.\n"
    )
    print("| sparsity | cycles | allocation | on_collapse | accuracy | left |")
    print("|---|---|---|---|---|---|")
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in KEYS[1:]), []).append(row)
    for (sparsity, *how), group in groups.items():
        accuracies = [100 * float(row["accuracy"]) for row in group]
        print(
            f"| {float(sparsity):.0%} | {' | '.join(how)} | "
            f"{mean_and_spread(accuracies)} | {group[0]['left']} |"
        )


def mean_and_spread(values):
    values = list(values)
    text = f"{statistics.mean(values):.1f}"
    if len(values) == 1:
        return text
    return f"{text} +- {statistics.stdev(values):.1f}"


def main(_):
    logging.set_verbosity(logging.WARNING)
    path = pathlib.Path(FLAGS.results)
    asked = list(
        itertools.product(
            FLAGS.seed,
            FLAGS.target_sparsity,
            FLAGS.cycles,
            FLAGS.allocation,
            FLAGS.on_collapse,
        )
    )
    results = read_results(path)
    (x, y), test = load_data()
    for seed, runs in itertools.groupby(asked, key=lambda run: run[0]):
        missing = [run for run in runs if run not in results]
        if not missing:
            continue
        weights = train_dense(int(seed), x, y)
        dense = compile_model(build_model(int(seed)))
        dense.set_weights(weights)
        dense_accuracy = summary(dense, test)["accuracy"]
        for values in missing:
            run = dict(zip(KEYS, values, strict=True))
            pruned = retrain(weights, x, y, run)
            row = {**run, "dense": dense_accuracy, **summary(pruned, test)}
            results[values] = row
            add_result(path, row)
            print(", ".join(values), f"{row['accuracy']:.2%}", flush=True)
    print_table([results[run] for run in asked])


if __name__ == "__main__":
    app.run(main)
