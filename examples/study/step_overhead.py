"""Measures the cost of masks: times a masked and a dense train step.

Two networks of the shape of ResNet-20, one of them wrapped and 90% pruned,
train in turns in one process. Each round times both, one right after the other,
and gives one ratio. Prints the median of the ratios with a bootstrap 95%
interval and, on TensorFlow, the additional operations in the compiled graph of
the masked step.
"""

import collections
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
import numpy as np
from absl import app
from absl import flags
from absl import logging
from paired_ratios import bootstrap

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 60, "Number of rounds.")
flags.DEFINE_float("round_seconds", 1.0, "Each network trains this long.")
flags.DEFINE_integer("batch_size", 128, "Images of 32x32 pixels per step.")
flags.DEFINE_enum(
    "jit_compile",
    "auto",
    ["auto", "true", "false"],
    "Compile with XLA, or torch.compile on torch. Defaults to Keras' choice.",
)


def convolution(x, filters, strides=1):
    x = keras.layers.Conv2D(
        filters, 3, strides, padding="same", use_bias=False
    )(x)
    return keras.layers.BatchNormalization()(x)


def build_model():
    """Builds nineteen convolutions and a dense layer, 270,000 weights."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.ReLU()(convolution(inputs, 16))
    for filters in (16, 32, 64):
        for block in range(3):
            strides = 2 if filters > 16 and block == 0 else 1
            shortcut = x
            if strides == 2:
                shortcut = keras.layers.AveragePooling2D(2)(x)
                shortcut = keras.layers.Concatenate()([shortcut] * 2)
            x = keras.layers.ReLU()(convolution(x, filters, strides))
            x = keras.layers.Add()([convolution(x, filters), shortcut])
            x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(10)(x))
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile={"true": True, "false": False}.get(
            FLAGS.jit_compile, "auto"
        ),
    )
    return model


def seconds_per_step(model, x, y, steps):
    start = time.perf_counter()
    for _ in range(steps):
        model.train_on_batch(x, y)
    return (time.perf_counter() - start) / steps


def compiled_operations(model, x, y):
    """Counts the operations of the optimized TensorFlow graph."""
    from tensorflow.python.eager import context

    context.enable_graph_collection()
    model.make_train_function(force=True)
    model.train_on_batch(x, y)
    graphs = context.export_run_metadata().function_graphs
    context.disable_graph_collection()
    return collections.Counter(
        node.op
        for graph in graphs
        for node in graph.post_optimization_graph.node
    )


def main(_):
    logging.set_verbosity(logging.WARNING)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((FLAGS.batch_size, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, FLAGS.batch_size)
    dense = build_model()
    masked = keras_bimp.wrap(build_model())
    kernels = len(keras_bimp.prune(masked, 0.9).counts)
    for model in (dense, masked):
        seconds_per_step(model, x, y, 3)
    steps = round(FLAGS.round_seconds / seconds_per_step(dense, x, y, 3) + 1)
    ratios, times = [], []
    for i in range(FLAGS.rounds):
        pair = [dense, masked] if i % 2 else [masked, dense]
        took = {id(m): seconds_per_step(m, x, y, steps) for m in pair}
        times.append(took[id(dense)])
        ratios.append(took[id(masked)] / took[id(dense)])
    low, high = bootstrap(ratios)
    spread = np.quantile(ratios, [0.25, 0.75])
    print(
        f"backend {keras.backend.backend()}, batch {FLAGS.batch_size}, "
        f"jit_compile {dense.jit_compile}, {FLAGS.rounds} rounds of "
        f"2 x {steps} steps\n"
        f"dense step: median {1000 * np.median(times):.1f} ms\n"
        f"masked / dense: median {np.median(ratios):.4f}, 95% interval "
        f"[{low:.4f}, {high:.4f}], quartiles "
        f"[{spread[0]:.4f}, {spread[1]:.4f}]"
    )
    if keras.backend.backend() == "tensorflow" and not dense.jit_compile:
        ours = compiled_operations(masked, x, y)
        theirs = compiled_operations(dense, x, y)
        more = {op: n for op, n in sorted((ours - theirs).items())}
        print(f"{kernels} kernels; operations added by the masks: {more}")


if __name__ == "__main__":
    app.run(main)
