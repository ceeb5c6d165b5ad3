"""What a training step of each pruning-stable method costs, in images/s.

The methods take turns, so that what else runs on the machine hits all.
"""

import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app
from absl import flags

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 10, "Turns of each method.")
flags.DEFINE_integer("steps", 10, "Steps per turn.")
flags.DEFINE_integer("batch_size", 128, "Images per step.")
flags.DEFINE_integer("filters", 64, "Of the first convolutions.")
flags.DEFINE_float("target_sparsity", 0.9, "Of the methods that take one.")


def build_model():
    """Eight convolutions and a dense layer, for images of 32x32."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = inputs
    for i in range(8):
        x = keras.layers.Conv2D(
            FLAGS.filters << (i // 3),
            3,
            strides=2 if i in (2, 5) else 1,
            padding="same",
            activation="relu",
        )(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def recipes():
    """Name -> recipe; `None` for plain training."""
    baselines, target = keras_bimp.baselines, FLAGS.target_sparsity
    return {
        "plain": None,
        "masked (BIMP)": baselines.Recipe(keras_bimp.masking.Hard(), []),
        "gmp": baselines.gmp(target),
        "gsm": baselines.gsm(target),
        "lc": baselines.lc(target),
        "dpf": baselines.dpf(target),
        "dnw": baselines.dnw(target),
        "cs": baselines.cs(),
        "str": baselines.str(),
        "dst": baselines.dst(),
    }


def build(recipe):
    model, optimizer = build_model(), None
    if recipe is not None:
        model = keras_bimp.wrap(model, rule=recipe.rule)
        optimizer = recipe.optimizer
    if optimizer is None:
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    for masked in keras_bimp.masking.masked_layers(model):
        for rule in masked.rules:
            # As after a pruning: there is something to choose.
            if isinstance(rule, keras_bimp.baselines.StraightThrough):
                rule.pruned.assign(
                    sum(kernel.size for kernel in masked.kernels) // 2
                )
    return model


def main(_):
    rng = np.random.default_rng(0)
    shape = (FLAGS.batch_size, 32, 32, 3)
    x = rng.standard_normal(shape).astype("float32")
    y = rng.integers(0, 10, FLAGS.batch_size)
    models = {name: build(recipe) for name, recipe in recipes().items()}
    rates = {name: [] for name in models}
    for _ in range(FLAGS.rounds):
        for name, model in models.items():
            rate = keras_bimp.metrics.train_throughput(
                model, x, y, FLAGS.batch_size, FLAGS.steps
            )
            rates[name].append(rate.median)
    weights = models["plain"].count_params()
    print(f"{weights:,} parameters, {keras.backend.backend()}")
    print(
        "| method | images/s | of plain training [quartiles] |\n|---|---|---|"
    )
    for name, found in rates.items():
        ratios = [a / b for a, b in zip(found, rates["plain"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"| {name} | {statistics.median(found):.0f} | "
            f"{middle:.3f} [{low:.3f}, {high:.3f}] |",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
