"""Prunes a small convolutional network on handwritten digits.

The 1,797 images of 8x8 pixels come with scikit-learn, so there is nothing to
download. Trains one network with budgeted iterative magnitude pruning and one
dense network for the same number of epochs, and compares them. If you kill the
script and start it again, it resumes where it stopped.
"""

import json
import os
import pathlib
import shutil
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
import numpy as np
import rich.console
import rich.table
from absl import app
from absl import flags
from absl import logging
from digits_network import build_model
from digits_network import load_data

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_float("target_sparsity", 0.95, "Fraction of weights to prune.")
flags.DEFINE_integer("epochs", 60, "Total budget, for each network.")
flags.DEFINE_integer(
    "dense_epochs", None, "Epochs before the first pruning; default: chosen."
)
flags.DEFINE_integer(
    "cycles", None, "How often to prune and retrain; default: chosen."
)
flags.DEFINE_string("retraining", "auto", "Schedule: allr, llr, ft, ...")
flags.DEFINE_string("allocation", "auto", "Sparsity by layer: global, lamp...")
flags.DEFINE_integer("seed", 0, "Random seed.")
flags.DEFINE_integer("save_freq", 0, "Also back up every this many batches.")
flags.DEFINE_string("output_dir", "output/digits", "Where to write.")


def backup_dir():
    """Returns the folder from which a killed run resumes."""
    return pathlib.Path(FLAGS.output_dir, "backup")


def batches(arrays):
    """Returns data whose batches are the same when a run resumes."""
    return keras_bimp.backup.EpochData(*arrays, batch_size=64, seed=FLAGS.seed)


def train_dense(train):
    keras.utils.set_random_seed(FLAGS.seed)
    model = build_model()
    steps = FLAGS.epochs * -(-len(train[0]) // 64)
    model.optimizer.learning_rate = keras_bimp.schedules.Linear(0.1, steps)
    backup = keras_bimp.Backup(
        backup_dir() / "dense", save_freq=FLAGS.save_freq or "epoch"
    )
    keras_bimp.fit(
        model,
        batches(train),
        epochs=FLAGS.epochs,
        callbacks=[backup],
        verbose=0,
    )
    return model


def print_progress(epoch, logs):
    print(
        f"epoch {epoch + 1:3d}/{FLAGS.epochs}  "
        f"train {logs['accuracy']:7.2%}  test {logs['val_accuracy']:7.2%}  "
        f"sparsity {logs['sparsity']:6.2%}  "
        f"learning rate {logs['learning_rate']:.4f}"
    )


def train_sparse(train, test):
    keras.utils.set_random_seed(FLAGS.seed)
    model = keras_bimp.wrap(build_model())
    history = model.fit(
        batches(train),
        epochs=FLAGS.epochs,
        validation_data=test,
        callbacks=[
            *keras_bimp.callbacks(
                FLAGS.target_sparsity,
                dense_epochs=FLAGS.dense_epochs,
                cycles=FLAGS.cycles or "auto",
                retraining=FLAGS.retraining,
                allocation=FLAGS.allocation,
                backup_dir=backup_dir() / "sparse",
                save_freq=FLAGS.save_freq or "epoch",
            ),
            keras.callbacks.LambdaCallback(on_epoch_end=print_progress),
        ],
        verbose=0,
    )
    # NaN becomes null in the file.
    return keras_bimp.strip(model), {
        name: [None if np.isnan(value) else value for value in values]
        for name, values in history.history.items()
    }


def next_version(folder):
    """Returns the first version folder 1, 2, 3, ... that does not exist."""
    versions = [int(p.name) for p in folder.glob("*") if p.name.isdigit()]
    return folder / str(max(versions, default=0) + 1)


def print_comparison(report):
    """Prints a table that compares the dense and the sparse network."""
    table = rich.table.Table(title="\nSame budget of epochs")
    for title in ("", "dense", "sparse"):
        table.add_column(title, justify="right" if title else "left")
    accuracy, dense_accuracy = report.metrics["accuracy"]
    table.add_row("test accuracy", f"{dense_accuracy:.2%}", f"{accuracy:.2%}")
    table.add_row("sparsity", "0.00%", f"{report.sparsity:.2%}")
    for name, dense, left in (
        (
            "weights in kernels",
            sum(kernel.size for kernel in report.kernels),
            sum(kernel.left for kernel in report.kernels),
        ),
        ("multiply-adds per image", report.dense_macs, report.macs),
    ):
        table.add_row(name, f"{dense:,}", f"{left:,}")
    for size in report.sizes:
        for name, dense, sparse in (
            (size.format, size.dense_raw, size.raw),
            (f"{size.format}, gzipped", size.dense_gzipped, size.gzipped),
        ):
            table.add_row(
                name, f"{dense / 1000:,.1f} kB", f"{sparse / 1000:,.1f} kB"
            )
    for facts in report.times:
        table.add_row(
            f"prediction, batch of {facts.batch_size}",
            f"{1000 * facts.dense_seconds[0]:.2f} ms",
            f"{1000 * facts.seconds[0]:.2f} ms",
        )
    rich.console.Console().print(table)


def plot(history, path):
    """Plots accuracy, sparsity and learning rate over the epochs."""
    import matplotlib.pyplot as plt

    epochs = np.arange(1, len(history["accuracy"]) + 1)
    figure, axes = plt.subplots(3, 1, sharex=True, figsize=(7, 6))
    axes[0].plot(epochs, 100 * np.array(history["val_accuracy"]), color="C0")
    axes[0].set_ylabel("test accuracy %")
    axes[0].set_ylim(bottom=max(0, axes[0].get_ylim()[0]), top=100)
    axes[1].step(
        epochs, 100 * np.array(history["sparsity"]), where="mid", color="C3"
    )
    axes[1].set_ylabel("sparsity %")
    axes[2].plot(epochs, history["learning_rate"], color="C2")
    axes[2].set_ylabel("learning rate")
    axes[2].set_xlabel("epoch")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].set_title("Budgeted iterative magnitude pruning, digits")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(_):
    logging.set_verbosity(logging.WARNING)
    start = time.time()
    output_dir = pathlib.Path(FLAGS.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    train, test = load_data()
    sparse, history = train_sparse(train, test)
    print(f"Training a dense network for the same {FLAGS.epochs} epochs")
    dense = train_dense(train)
    report = keras_bimp.report(
        sparse, dense, test, history, output_dir / "report.html", verbose=0
    )
    print_comparison(report)

    sparse.save(output_dir / "model.keras")
    version = next_version(output_dir / "saved_model")
    keras_bimp.export(sparse, version)
    plot(history, output_dir / "history.png")
    prunable = sum(kernel.size for kernel in report.kernels)
    accuracy, dense_accuracy = report.metrics["accuracy"]
    summary = {
        "target_sparsity": FLAGS.target_sparsity,
        "sparsity": report.sparsity,
        "prunable_weights": prunable,
        "zeros": round(report.sparsity * prunable),
        "dense_accuracy": dense_accuracy,
        "accuracy": accuracy,
        "epochs": FLAGS.epochs,
        "seconds": round(time.time() - start, 1),
    }
    (output_dir / "summary.json").write_text(json.dumps(summary, indent=1))
    (output_dir / "history.json").write_text(json.dumps(history))
    shutil.rmtree(backup_dir())
    print(
        f"Written to {output_dir}: report.html, summary.json, history.json, "
        f"history.png, model.keras and saved_model/{version.name}"
    )


if __name__ == "__main__":
    app.run(main)
