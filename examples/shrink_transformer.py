"""Prunes and removes attention heads and inner units of a transformer.

Trains a transformer to predict the next byte of the documentation that comes
with Python, prunes the attention heads and inner units of its blocks that
matter least, and retrains. The pruned heads and units are then removed, so
that the transformer has fewer parameters and is faster in any runtime. It is
compared with the same transformer with zeros in place, as a SavedModel and in
LiteRT. All files take turns.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
import numpy as np
import rich.console
import rich.table
import tensorflow as tf
from absl import app
from absl import flags
from absl import logging
from byte_transformer import build_transformer
from byte_transformer import load_text
from byte_transformer import milliseconds

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_float("target_sparsity", 0.5, "Fraction of heads and units.")
flags.DEFINE_integer("epochs", 8, "Total budget.")
flags.DEFINE_integer("dense_epochs", 5, "Epochs before pruning.")
flags.DEFINE_integer("blocks", 4, "Number of transformer blocks.")
flags.DEFINE_integer("width", 256, "Width of the transformer.")
flags.DEFINE_integer("heads", 8, "Attention heads per block.")
flags.DEFINE_integer("length", 64, "Bytes per sequence.")
flags.DEFINE_integer("subset", None, "Number of bytes to learn from.")
flags.DEFINE_float("learning_rate", 1e-3, "Largest learning rate.")
flags.DEFINE_integer("rounds", 50, "How often the files take turns.")
flags.DEFINE_integer("seed", 0, "Random seed.")
flags.DEFINE_string("output_dir", "output/transformer", "Where to write.")


def train(data, validation):
    """Returns a transformer with pruned heads and units, and its history."""
    keras.utils.set_random_seed(FLAGS.seed)
    plain = build_transformer(
        FLAGS.length, FLAGS.blocks, FLAGS.width, FLAGS.heads, dropout=0.1
    )
    model = keras_bimp.wrap(plain)
    model.compile(
        keras.optimizers.Adam(FLAGS.learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(
        *data,
        batch_size=32,
        epochs=FLAGS.epochs,
        validation_data=validation,
        callbacks=keras_bimp.callbacks(
            FLAGS.target_sparsity,
            dense_epochs=FLAGS.dense_epochs,
            cycles=1,
            granularity="unit",
        ),
        verbose=2,
    )
    return keras_bimp.strip(model), history.history


def new_path(name):
    """Returns a path in the output folder after deleting what is there."""
    path = pathlib.Path(FLAGS.output_dir, name)
    if path.is_dir():
        tf.io.gfile.rmtree(str(path))
    path.unlink(missing_ok=True)
    return path


def saved_model(name, model):
    """Returns a function that runs a SavedModel of the model."""
    path = new_path(f"{name}/1")
    keras_bimp.export(model, path)
    loaded = tf.saved_model.load(str(path))
    return lambda x: loaded.serve(x).numpy()


def litert(name, model):
    """Returns a function that runs a LiteRT file of it, in one thread."""
    from ai_edge_litert.interpreter import Interpreter

    path = new_path(f"{name}.tflite")
    keras_bimp.export(model, path, format="litert")
    interpreter = Interpreter(str(path), num_threads=1)
    (given,) = interpreter.get_input_details()
    (found,) = interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], (1, FLAGS.length))
    interpreter.allocate_tensors()

    def run(x):
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(found["index"])

    return run


def main(_):
    logging.set_verbosity(logging.WARNING)
    data, validation = load_text(FLAGS.length, FLAGS.subset)
    pruned, logs = train(data, validation)
    small = keras_bimp.shrink(pruned)
    x = validation[0][:8]
    expected, found = (model.predict(x, verbose=0) for model in (pruned, small))
    print(f"\nOutputs differ by at most {np.abs(expected - found).max():.1e}")
    for title, name in (
        ("just before pruning", "val_accuracy_before_pruning"),
        ("just after it", "val_accuracy_after_pruning"),
        ("after retraining", "val_accuracy"),
    ):
        print(f"{'accuracy ' + title:<34}{logs[name][-1]:.2%}")

    table = rich.table.Table(
        title=f"\nFor texts of {FLAGS.length} bytes, medians"
    )
    for title in ("", "zeros in place", "shrunk", "ratio", "quartiles"):
        table.add_column(title, justify="right" if title else "left")
    for title, count in (
        ("parameters", lambda model: model.count_params()),
        ("multiply-adds", lambda m: keras_bimp.metrics.count_macs(m).dense),
    ):
        before, after = count(pruned), count(small)
        table.add_row(
            title, f"{before:,}", f"{after:,}", f"{before / after:.2f}"
        )
    for title, load, texts in (
        ("SavedModel, 8 texts", saved_model, 8),
        ("LiteRT, 1 text", litert, 1),
    ):
        functions = [load("zeros", pruned), load("shrunk", small)]
        times = milliseconds(functions, x[:texts], FLAGS.rounds)
        before, after = np.median(times, axis=1)
        low, ratio, high = np.percentile(times[0] / times[1], (25, 50, 75))
        table.add_row(
            title,
            f"{before:.2f} ms",
            f"{after:.2f} ms",
            f"{ratio:.2f}",
            f"{low:.2f} - {high:.2f}",
        )
    rich.console.Console().print(table)


if __name__ == "__main__":
    app.run(main)
