"""Prunes a residual network on Fashion-MNIST with three methods.

- `dense`: no pruning, a linear learning rate over the whole budget.
- `one-shot`: 60% of the budget dense with a stepped learning rate, then one
  pruning and retraining for the rest of the budget. The dense model is kept in
  `--output_dir`, so each sparsity and schedule starts from the same weights.
- `bimp`: half of the budget dense with a linear learning rate, then three
  cycles of pruning and retraining.

All methods train for `--epochs` in total. Flags take several values, separated
by commas, and all combinations are run:

    python examples/fashion_mnist.py --method=dense,one-shot,bimp \
        --retraining=ft,allr --target_sparsity=0.9,0.98 --seed=0,1
"""

import itertools
import json
import os
import pathlib
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

FLAGS = flags.FLAGS
flags.DEFINE_list("method", ["bimp"], "Any of dense, one-shot, bimp.")
flags.DEFINE_list(
    "retraining",
    ["allr"],
    "Schedule of one-shot (bimp: ALLR): ft, slr, allr...",
)
flags.DEFINE_list("target_sparsity", ["0.9"], "Fractions to prune.")
flags.DEFINE_list("seed", ["0"], "Random seeds.")
flags.DEFINE_integer("epochs", 10, "Total budget of every method.")
flags.DEFINE_integer("cycles", 3, "Prunings of bimp.")
flags.DEFINE_float("learning_rate", 0.1, "Largest learning rate.")
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps data.")
flags.DEFINE_string("output_dir", "output/fashion_mnist", "Where to write.")


def compile_model(model, learning_rate):
    model.compile(
        keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=True,
    )
    return model


def fit(model, data, epochs, callbacks=()):
    (x, y), test = data
    return model.fit(
        x,
        y,
        epochs=epochs,
        batch_size=128,
        validation_data=test,
        validation_batch_size=1000,
        callbacks=list(callbacks),
        verbose=2,
    )


def train_dense(data, seed):
    keras.utils.set_random_seed(seed)
    steps = FLAGS.epochs * -(-len(data[0][0]) // 128)
    schedule = keras_bimp.schedules.Linear(FLAGS.learning_rate, steps)
    model = compile_model(build_residual_network(), schedule)
    return model, fit(model, data, FLAGS.epochs)


def train_one_shot(data, seed, target_sparsity, retraining):
    dense_epochs = round(0.6 * FLAGS.epochs)
    steps = dense_epochs * -(-len(data[0][0]) // 128)
    rate = FLAGS.learning_rate
    stepped = keras.optimizers.schedules.PiecewiseConstantDecay(
        [steps // 2, steps * 3 // 4], [rate, rate / 10, rate / 100]
    )
    name = f"dense_{dense_epochs}_epochs_seed_{seed}.keras"
    checkpoint = pathlib.Path(FLAGS.output_dir, name)
    if not checkpoint.exists():
        keras.utils.set_random_seed(seed)
        model = compile_model(build_residual_network(), stepped)
        fit(model, data, dense_epochs)
        model.save(checkpoint)
    keras.utils.set_random_seed(seed)
    model = keras_bimp.wrap(keras.models.load_model(checkpoint))
    compile_model(model, rate)
    history = fit(
        model,
        data,
        FLAGS.epochs - dense_epochs,
        keras_bimp.callbacks(
            target_sparsity,
            dense_epochs=0,
            cycles=1,
            retraining=retraining,
            allocation="global",
            original=(stepped, steps),
            original_epochs=dense_epochs,
        ),
    )
    return keras_bimp.strip(model), history


def train_bimp(data, seed, target_sparsity):
    keras.utils.set_random_seed(seed)
    model = keras_bimp.wrap(
        compile_model(build_residual_network(), FLAGS.learning_rate)
    )
    history = fit(
        model,
        data,
        FLAGS.epochs,
        keras_bimp.callbacks(
            target_sparsity,
            dense_epochs=FLAGS.epochs // 2,
            cycles=FLAGS.cycles,
            retraining="allr",
            allocation="global",
        ),
    )
    return keras_bimp.strip(model), history


def runs():
    """Yields (name, sparsity, function of data and seed) for each run."""
    sparsities = [float(s) for s in FLAGS.target_sparsity]
    for method in FLAGS.method:
        if method == "dense":
            yield "dense", 0.0, train_dense
        elif method == "one-shot":
            for s, r in itertools.product(sparsities, FLAGS.retraining):
                yield (
                    f"one-shot {r.upper()}",
                    s,
                    lambda data, seed, s=s, r=r: train_one_shot(
                        data, seed, s, r
                    ),
                )
        elif method == "bimp":
            for s in sparsities:
                yield (
                    f"BIMP, {FLAGS.cycles} cycles ALLR",
                    s,
                    lambda data, seed, s=s: train_bimp(data, seed, s),
                )
        else:
            raise app.UsageError(f"--method: unknown method {method!r}")


def table(rows):
    """Returns a Markdown table: mean and std of accuracies over seeds."""
    lines = [
        "| method | sparsity | test accuracy % | seeds |",
        "|---|---|---|---|",
    ]
    groups = {}
    for row in rows:
        key = row["method"], row["target_sparsity"]
        groups.setdefault(key, []).append(100 * row["accuracy"])
    for (method, sparsity), values in groups.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        lines.append(
            f"| {method} | {sparsity:.0%} | {statistics.mean(values):.2f} "
            f"+- {spread:.2f} | {len(values)} |"
        )
    return "\n".join(lines)


def main(_):
    logging.set_verbosity(logging.WARNING)
    asked = list(runs())
    output_dir = pathlib.Path(FLAGS.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    data = load_fashion_mnist(FLAGS.data_dir)
    rows, dense = [], {}
    for name, target_sparsity, train in asked:
        for seed in map(int, FLAGS.seed):
            print(f"\n{name}, {target_sparsity:.0%} sparse, seed {seed}")
            start = time.time()
            model, history = train(data, seed)
            seconds = round(time.time() - start, 1)
            if not target_sparsity:
                dense[seed] = model
            words = f"{name}-{target_sparsity:g}-seed-{seed}".lower().split()
            # Compared with `dense` if that was run, which comes first.
            report = keras_bimp.report(
                model,
                dense.get(seed),
                data[1],
                history,
                output_dir / f"{'-'.join(words).replace(',', '')}.html",
                verbose=0,
            )
            accuracy, _ = report.metrics["accuracy"]
            rows.append(
                {
                    "method": name,
                    "target_sparsity": target_sparsity,
                    "seed": seed,
                    "accuracy": accuracy,
                    "sparsity": report.sparsity,
                    "seconds": seconds,
                }
            )
            results = json.dumps(rows, indent=1)
            (output_dir / "results.json").write_text(results)
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    app.run(main)
