"""Measures how many images per second each method trains on.

The same network is trained dense; by IMP (or BIMP) with two cycles, in its
dense phase and in each cycle; and by each of the pruning-stable methods. All
are in one process and take turns of a few steps, in a new random order in each
round. The dense network has its turn before and after each of the others, which
are compared with both, so that a slow drift of the machine cancels. "Dense
again" is a second dense network. Its ratio shows the error of the others.
"""

import logging
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
import networks
import numpy as np
import paired_ratios
from absl import app
from absl import flags

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 100, "Turns of each method.")
flags.DEFINE_float("turn_seconds", 0.25, "Approximate length of a turn.")
flags.DEFINE_integer("batch_size", 128, "Images of 32x32 pixels per step.")
flags.DEFINE_integer("width", 8, "Filters in the first stage of ResNet-20.")
flags.DEFINE_float("target_sparsity", 0.9, "For methods that take one.")
flags.DEFINE_enum(
    "jit_compile",
    "auto",
    ["auto", "true", "false"],
    "Compile with XLA, or torch.compile on torch. Defaults to Keras' choice.",
)
LEARNING_RATE, WEIGHT_DECAY = 0.01, 5e-4
# These apply weight decay themselves: a regularizer would apply it twice.
DECAY_THEMSELVES = ("gsm", "lc")
CYCLES = 2


def recipes():
    """Returns name -> recipe of each pruning-stable method."""
    baselines, target = keras_bimp.baselines, FLAGS.target_sparsity
    return {
        "gmp": baselines.gmp(target, interval=1, verbose=0),
        "gsm": baselines.gsm(
            target,
            learning_rate=LEARNING_RATE,
            nesterov=True,
            weight_decay=WEIGHT_DECAY,
            verbose=0,
        ),
        "lc": baselines.lc(target, weight_decay=WEIGHT_DECAY, verbose=0),
        "dpf": baselines.dpf(target, interval=1, verbose=0),
        "dnw": baselines.dnw(target, verbose=0),
        "cs": baselines.cs(verbose=0),
        "str": baselines.str(weight_decay=WEIGHT_DECAY, verbose=0),
        "dst": baselines.dst(verbose=0),
    }


def build_network(name="dense"):
    keras.utils.set_random_seed(0)
    decay = 0.0 if name in DECAY_THEMSELVES else WEIGHT_DECAY
    return networks.resnet20(width=FLAGS.width, weight_decay=decay)


def compiled(model, optimizer=None):
    model.compile(
        optimizer
        or keras.optimizers.SGD(LEARNING_RATE, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile={"true": True, "false": False}.get(
            FLAGS.jit_compile, "auto"
        ),
    )
    return model


def in_cycle(cycle, x, y):
    """Returns a network in a cycle of IMP; 0 is the dense phase."""
    model = compiled(keras_bimp.wrap(build_network()))
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(
            model, "stop_training", epoch == cycle
        )
    )
    callbacks = keras_bimp.callbacks(
        FLAGS.target_sparsity,
        dense_epochs=1,
        cycles=CYCLES,
        retraining="allr",
        allocation="global",
        verbose=0,
    )
    fit(model, x, y, 1 + CYCLES, [*callbacks, stop])
    return model


def after(name, recipe, x, y):
    """Returns a network pruned and trained by a pruning-stable method."""
    model = keras_bimp.wrap(build_network(name), rule=recipe.rule)
    compiled(model, recipe.optimizer)
    fit(model, x, y, 2, recipe.callbacks)
    return model


def fit(model, x, y, epochs, callbacks):
    model.fit(
        x,
        y,
        batch_size=FLAGS.batch_size,
        epochs=epochs,
        callbacks=callbacks,
        verbose=0,
    )


def build_models(x, y):
    """Returns name -> compiled model whose train step to time."""
    models = {
        "dense": compiled(build_network()),
        "dense again": compiled(build_network()),
    }
    for cycle in range(1 + CYCLES):
        model = in_cycle(cycle, x, y)
        sparsity = keras_bimp.sparsity(model).prunable
        models[f"BIMP, {sparsity:.0%} sparse"] = model
    for name, recipe in recipes().items():
        models[name.upper()] = after(name, recipe, x, y)
    return models


def seconds_per_step(model, x, y, steps):
    start = time.perf_counter()
    for _ in range(steps):
        model.train_on_batch(x, y)
    return (time.perf_counter() - start) / steps


def main(_):
    # Each model traces its step twice, for `fit` and for single batches.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    rng = np.random.default_rng(0)
    shape = (FLAGS.batch_size, 32, 32, 3)
    x = rng.standard_normal(shape).astype("float32")
    y = rng.integers(0, 10, FLAGS.batch_size)
    models = build_models(x, y)
    for model in models.values():
        seconds_per_step(model, x, y, 3)
    dense = models["dense"]
    steps = round(FLAGS.turn_seconds / seconds_per_step(dense, x, y, 5)) or 1
    begin = time.perf_counter()
    seconds, times_as_fast = paired_ratios.take_turns(
        models,
        FLAGS.rounds,
        lambda model: seconds_per_step(model, x, y, steps),
    )
    print(
        f"backend {keras.backend.backend()}, batch {FLAGS.batch_size}, "
        f"jit_compile {dense.jit_compile}, {dense.count_params():,} "
        f"parameters, {FLAGS.rounds} rounds of {steps} steps, "
        f"{time.perf_counter() - begin:.0f} s\n\n"
        f"{paired_ratios.table(seconds, times_as_fast, FLAGS.batch_size)}"
    )


if __name__ == "__main__":
    app.run(main)
