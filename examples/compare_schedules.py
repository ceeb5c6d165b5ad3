"""Compares retraining schedules on a network pretrained on Fashion-MNIST.

For each seed, one network is pretrained for 40 epochs on 12,000 images, with a
learning rate of 0.2 that is divided by 10 after 45% and after 90% of the
epochs. It is then pruned and retrained with each schedule, to each target
sparsity and for each number of retraining epochs: 1, 2, 4 and 10 are 2.5, 5, 10
and 25% of the pretraining.

Each finished run is a line of `results.csv` in `--output_dir` and is not
repeated, so you can stop at any time, start again, and add runs. At the end,
the script prints a table of the requested runs and writes it to `results.md`,
along with `schedules.png`.
"""

import csv
import itertools
import os
import pathlib
import shutil
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
from absl import app
from absl import flags
from absl import logging
from common import build_residual_network
from common import load_fashion_mnist

import keras_bimp
from keras_bimp import schedules

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "retraining",
    ["ft", "lrw", "slr", "clr", "llr", "allr"],
    "Schedules to compare: names that `keras_bimp.callbacks` accepts.",
)
flags.DEFINE_list("target_sparsity", ["0.7", "0.9", "0.98"], "To prune to.")
flags.DEFINE_list("epochs", ["1", "4"], "Epochs of retraining.")
flags.DEFINE_list("seed", ["0"], "Random seeds.")
flags.DEFINE_integer("pretrain_epochs", 40, "Epochs of pretraining.")
flags.DEFINE_integer("train_images", 12000, "Number of training images.")
flags.DEFINE_float("learning_rate", 0.2, "Largest learning rate.")
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps data.")
flags.DEFINE_string("output_dir", "output/compare_schedules", "Where to write.")

BATCH_SIZE = 128
FIELDS = (
    "pretrain_epochs",
    "train_images",
    "learning_rate",
    "seed",
    "retraining",
    "target_sparsity",
    "epochs",
    "dense_accuracy",
    "accuracy",
    "sparsity",
    "discount",
    "seconds",
)


def compile_model(model, learning_rate):
    model.compile(
        keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # Compiling takes longer than an epoch.
    )
    return model


def accuracy_of(model, test):
    return model.evaluate(*test, batch_size=1000, verbose=0)[1]


def stepped(steps):
    rate = FLAGS.learning_rate
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [int(0.45 * steps), int(0.9 * steps)], [rate, rate / 10, rate / 100]
    )


class Pretrained:
    """A pretrained network: its checkpoints and its learning rates."""

    def __init__(self, seed, data):
        self._folder = pathlib.Path(
            FLAGS.output_dir,
            f"{FLAGS.train_images}_images_{FLAGS.pretrain_epochs}_epochs_"
            f"rate_{FLAGS.learning_rate:g}_seed_{seed}",
        )
        if not self._folder.exists():
            # Renamed when complete, so that a kill leaves all files or none.
            unfinished = self._folder.with_name("unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            self._train(seed, data, unfinished)
            unfinished.rename(self._folder)
        self.rates = keras_bimp.RecordLearningRate(self._folder / "rates.npz")
        self.accuracy = accuracy_of(self.load(), data[1])
        print(f"Pretrained network, seed {seed}: {self.accuracy:.2%}")

    def checkpoint(self, epochs_to_go):
        """Returns the file of the network, some epochs before the end."""
        epoch = FLAGS.pretrain_epochs - epochs_to_go
        return self._folder / f"epoch_{epoch:03d}.keras"

    def load(self):
        return keras.models.load_model(self.checkpoint(0))

    def _train(self, seed, data, folder):
        (x, y), test = data
        keras.utils.set_random_seed(seed)
        steps = FLAGS.pretrain_epochs * -(-len(x) // BATCH_SIZE)
        model = build_residual_network(
            weight_decay=2e-3, batch_norm_momentum=0.9, hidden_units=256
        )
        folder.mkdir(parents=True)
        compile_model(model, stepped(steps)).fit(
            x,
            y,
            epochs=FLAGS.pretrain_epochs,
            batch_size=BATCH_SIZE,
            validation_data=test,
            validation_batch_size=1000,
            callbacks=[
                keras_bimp.RecordLearningRate(folder / "rates.npz"),
                keras.callbacks.ModelCheckpoint(
                    folder / "epoch_{epoch:03d}.keras"
                ),
            ],
            verbose=2,
        )


def retrain(pretrained, data, seed, retraining, target_sparsity, epochs):
    """Prunes and retrains a pretrained network, and returns the results."""
    (x, y), test = data
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = compile_model(
        keras_bimp.wrap(pretrained.load()), FLAGS.learning_rate
    )
    rewinds = retraining == "wr"
    history = model.fit(
        x,
        y,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        callbacks=keras_bimp.callbacks(
            target_sparsity,
            dense_epochs=0,
            cycles=1,
            retraining=retraining,
            allocation="global",
            original=pretrained.rates,
            original_epochs=FLAGS.pretrain_epochs,
            rewind_to=pretrained.checkpoint(epochs) if rewinds else None,
            data=data[0],
            verbose=0,
        ),
        verbose=0,
    ).history
    pruned = keras_bimp.strip(model)
    return {
        "accuracy": accuracy_of(pruned, test),
        "sparsity": keras_bimp.sparsity(pruned).prunable,
        "discount": history["discount"][-1],
    }


def asked():
    """Returns the requested runs as dicts, cheapest first for each seed."""
    names = ("seed", "epochs", "target_sparsity", "retraining")
    for values in itertools.product(
        map(int, FLAGS.seed),
        sorted(map(int, FLAGS.epochs)),
        map(float, FLAGS.target_sparsity),
        FLAGS.retraining,
    ):
        yield {
            "pretrain_epochs": FLAGS.pretrain_epochs,
            "train_images": FLAGS.train_images,
            "learning_rate": FLAGS.learning_rate,
            **dict(zip(names, values, strict=True)),
        }


def identity(run):
    """Returns the settings of a run as text, as in a CSV file."""
    return tuple(str(run[name]) for name in FIELDS[:7])


def read_results(path):
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_results(path, rows):
    # Replaced atomically: a kill leaves the old file or the new one.
    unfinished = path.with_name(f"{path.name}.unfinished")
    with open(unfinished, "w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    unfinished.replace(path)


def spread(values):
    return statistics.stdev(values) if len(values) > 1 else 0.0


def with_spread(values, emphasis=""):
    text = f"{emphasis}{statistics.mean(values):.2f}{emphasis}"
    return f"{text} +- {spread(values):.2f}" if len(values) > 1 else text


def tables(rows):
    """Returns Markdown: a table per sparsity with a row per schedule."""
    cells = {}
    for row in rows:
        cell = float(row["target_sparsity"]), int(row["epochs"])
        accuracies = cells.setdefault(cell, {})
        accuracies.setdefault(row["retraining"], []).append(
            100 * float(row["accuracy"])
        )
    best = {cell: near_best(accuracies) for cell, accuracies in cells.items()}
    methods = list(dict.fromkeys(row["retraining"] for row in rows))
    dense = {
        str(row["seed"]): 100 * float(row["dense_accuracy"]) for row in rows
    }
    yield (
        "Test accuracy in %, mean +- standard deviation over seeds "
        f"{', '.join(dense)}; dense {with_spread(list(dense.values()))}. Bold: "
        "the best of a column, and others within one standard error of it."
    )
    for sparsity in sorted({sparsity for sparsity, _ in cells}):
        budgets = sorted(e for s, e in cells if s == sparsity)
        titles = [f"{e} epoch{'s' * (e > 1)}" for e in budgets]
        lines = [
            f"| {sparsity:.0%} sparse | {' | '.join(titles)} |",
            "|---" * (1 + len(budgets)) + "|",
        ]
        for method in methods:
            texts = []
            for epochs in budgets:
                values = cells[sparsity, epochs].get(method)
                bold = "**" if method in best[sparsity, epochs] else ""
                texts.append(with_spread(values, bold) if values else "-")
            lines.append(f"| {method.upper()} | {' | '.join(texts)} |")
        yield "\n".join(lines)
    counts = {m: sum(m in names for names in best.values()) for m in methods}
    yield (
        f"Bold, of {len(cells)} columns: "
        + ", ".join(f"{m.upper()} {count}" for m, count in counts.items())
        + "."
    )


def near_best(accuracies):
    """Returns the methods within one standard error of the best mean."""
    means = {m: statistics.mean(values) for m, values in accuracies.items()}
    best = max(means, key=means.get)
    values = accuracies[best]
    error = spread(values) / len(values) ** 0.5
    return [m for m, mean in means.items() if mean >= means[best] - error]


def plot(path):
    """Plots the original schedule and those of the longest retraining."""
    import matplotlib.pyplot as plt

    per_epoch = -(-FLAGS.train_images // BATCH_SIZE)
    steps = FLAGS.pretrain_epochs * per_epoch
    original = schedules.original_rates((stepped(steps), steps))
    epochs = min(max(map(int, FLAGS.epochs)), FLAGS.pretrain_epochs)
    known = {
        "FT": schedules.FT(original, epochs * per_epoch),
        "LRW": schedules.LRW(original, epochs * per_epoch),
        "SLR": schedules.SLR(original, epochs * per_epoch),
        "CLR": schedules.CLR(original, epochs * per_epoch),
        "LLR": schedules.LLR(original.max(), epochs * per_epoch),
        "ALLR, d = 0.5": schedules.ALLR(
            original.max(), epochs * per_epoch, discount=0.5
        ),
    }
    figure, grid = plt.subplots(
        2, 3, sharex=True, sharey=True, figsize=(9, 4.5)
    )
    for axes, (name, schedule) in zip(grid.flat, known.items(), strict=True):
        rates = schedule.values()
        x = [i / per_epoch for i in range(steps + len(rates))]
        axes.plot(x[:steps], original, color="0.6", label="original")
        axes.plot(x[steps:], rates, color="C3", label="retraining")
        axes.axvline(FLAGS.pretrain_epochs, color="0.8", linewidth=0.8)
        axes.set_title(name)
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    for axes in grid[:, 0]:
        axes.set_ylabel("learning rate")
    grid[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(_):
    logging.set_verbosity(logging.WARNING)
    output_dir = pathlib.Path(FLAGS.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    results = output_dir / "results.csv"
    runs = list(asked())
    for retraining in FLAGS.retraining:
        # Raises errors now, not in an hour.
        keras_bimp.callbacks(0.9, dense_epochs=0, retraining=retraining)
    rows = read_results(results)
    done = {identity(row) for row in rows}
    data = load_fashion_mnist(FLAGS.data_dir, f"train[:{FLAGS.train_images}]")
    pretrained = {}
    for number, run in enumerate(runs, start=1):
        if identity(run) in done:
            continue
        seed = run["seed"]
        if seed not in pretrained:
            pretrained[seed] = Pretrained(seed, data)
        start = time.time()
        row = run | retrain(
            pretrained[seed],
            data,
            seed,
            run["retraining"],
            run["target_sparsity"],
            run["epochs"],
        )
        row["dense_accuracy"] = pretrained[seed].accuracy
        row["seconds"] = round(time.time() - start, 1)
        rows.append(row)
        write_results(results, rows)
        print(
            f"{number} of {len(runs)}: {run['retraining'].upper()}, "
            f"{run['target_sparsity']:.0%} sparse, {run['epochs']} epochs, "
            f"seed {seed}: {row['accuracy']:.2%} ({row['seconds']} s)",
            flush=True,
        )
    wanted = {identity(run) for run in runs}
    text = "\n\n".join(tables([row for row in rows if identity(row) in wanted]))
    (output_dir / "results.md").write_text(text + "\n")
    plot(output_dir / "schedules.png")
    print(
        f"\n{text}\n\nWritten to {output_dir}: results.csv, results.md, "
        "schedules.png"
    )


if __name__ == "__main__":
    app.run(main)
