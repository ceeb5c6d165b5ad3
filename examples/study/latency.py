"""Measures how much faster a network is once its pruned filters are removed.

Prunes `--target_sparsity` of the filters of a network, shrinks it, exports it
and the dense network, and times both in the runtimes for these formats:
TensorFlow with a SavedModel, LiteRT and OpenVINO. The two networks take turns,
so that other load on the machine affects both. Weights are random, since speed
does not depend on them.

`--versus=keras` compares the SavedModel of the dense network with the one that
Keras' `model.export` writes, in which batch normalization is not folded.

TensorFlow's number of threads is set once per process: run the script again for
another `--threads`.
"""

import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
import networks
import numpy as np
from absl import app
from absl import flags
from absl import logging

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_list("network", ["resnet56", "vgg16"], "Names in `networks`.")
flags.DEFINE_list(
    "format", ["tf_saved_model", "litert", "openvino"], "Formats to time."
)
flags.DEFINE_list("batch_size", ["1", "64"], "Images per batch.")
flags.DEFINE_integer("threads", 1, "Threads of each runtime.")
flags.DEFINE_float("target_sparsity", 0.6, "Fraction of filters to prune.")
flags.DEFINE_integer("rounds", 15, "Turns of each network.")
flags.DEFINE_enum(
    "versus", "dense", ["dense", "keras"], "The network to compare with."
)

FILES = {"tf_saved_model": "1", "litert": "x.tflite", "openvino": "x.xml"}


def pruned(network):
    """Returns a network, and the same without its pruned filters."""
    keras.utils.set_random_seed(0)
    model = keras_bimp.wrap(getattr(networks, network)())
    keras_bimp.prune(
        model,
        FLAGS.target_sparsity,
        granularity="filter",
        allocation="coupled",
    )
    return keras_bimp.shrink(keras_bimp.strip(model))


def saved_model(path, images):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    images = tf.constant(images)
    return lambda: loaded.serve(images).numpy()


def litert(path, images):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=FLAGS.threads)
    (given,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(given["index"], images.shape)
    interpreter.allocate_tensors()
    (found,) = interpreter.get_output_details()

    def run():
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(found["index"])

    return run


def openvino(path, images):
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(images.shape)
    compiled = core.compile_model(
        model, "CPU", {"INFERENCE_NUM_THREADS": FLAGS.threads}
    )
    return lambda: compiled(images)[0]


LOAD = {"tf_saved_model": saved_model, "litert": litert, "openvino": openvino}


def seconds(run, calls):
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - begin) / calls


def interleaved(first, second):
    """Returns seconds per call of both, in turns, after a warm-up."""
    one = max(seconds(first, 1) and seconds(first, 1), 1e-6)
    seconds(second, 3)
    calls = max(1, round(0.1 / one))
    times = [
        (seconds(first, calls), seconds(second, calls))
        for _ in range(FLAGS.rounds)
    ]
    return zip(*times, strict=True)


def main(_):
    logging.set_verbosity(logging.WARNING)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
    tf.config.threading.set_inter_op_parallelism_threads(FLAGS.threads)
    rng = np.random.default_rng(0)
    formats = FLAGS.format if FLAGS.versus == "dense" else ["tf_saved_model"]
    for network in FLAGS.network:
        dense = getattr(networks, network)()
        small = pruned(network) if FLAGS.versus == "dense" else dense
        print_head(network, dense, small)
        for name in formats:
            with tempfile.TemporaryDirectory() as folder:
                first, second = (
                    pathlib.Path(folder, part, FILES[name]) for part in "ab"
                )
                if FLAGS.versus == "dense":
                    first.parent.mkdir()
                    keras_bimp.export(dense, first, format=name)
                else:
                    dense.export(first, verbose=False)
                second.parent.mkdir()
                keras_bimp.export(small, second, format=name)
                for size in map(int, FLAGS.batch_size):
                    images = rng.standard_normal((size, 32, 32, 3))
                    images = images.astype("float32")
                    runs = [LOAD[name](p, images) for p in (first, second)]
                    print_row(name, size, *interleaved(*runs))


def print_head(network, dense, small):
    if dense is small:
        first, second = "Keras' own, ms", "ours, ms"
        print(f"\n{network}, dense; threads: {FLAGS.threads}\n")
    else:
        first, second = "dense, ms", "shrunk, ms"
        macs, macs_left = (
            keras_bimp.metrics.count_macs(model).dense
            for model in (dense, small)
        )
        print(
            f"\n{network}: {dense.count_params():,} -> "
            f"{small.count_params():,} parameters, {macs:,} -> "
            f"{macs_left:,} multiply-adds: in theory "
            f"{macs / macs_left:.2f} times as fast; threads: "
            f"{FLAGS.threads}\n"
        )
    print(f"| format | batch | {first} | {second} | times as fast |")
    print("|---|---|---|---|---|", flush=True)


def print_row(name, size, first, second):
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(
        f"| {name} | {size} "
        f"| {1000 * statistics.median(first):.2f} "
        f"| {1000 * statistics.median(second):.2f} "
        f"| {middle:.2f} [{low:.2f}, {high:.2f}] |",
        flush=True,
    )


if __name__ == "__main__":
    app.run(main)
