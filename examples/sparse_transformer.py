"""Prunes a transformer to 95% zeros, and serves it with sparse kernels.

Trains a transformer to predict the next byte of the documentation that comes
with Python, prunes it in cycles, and exports it twice: with dense kernels, and
with sparse kernels, which are faster in TensorFlow on a CPU. Both are loaded
with TensorFlow only and take turns.
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
flags.DEFINE_float("target_sparsity", 0.95, "Fraction of weights to prune.")
flags.DEFINE_integer("epochs", 12, "Total budget.")
flags.DEFINE_integer("dense_epochs", 4, "Epochs before the first pruning.")
flags.DEFINE_integer("cycles", 2, "How often to prune and retrain.")
flags.DEFINE_integer("blocks", 4, "Number of transformer blocks.")
flags.DEFINE_integer("width", 512, "Width of the transformer.")
flags.DEFINE_integer("heads", 8, "Attention heads per block.")
flags.DEFINE_integer("length", 64, "Bytes per sequence.")
flags.DEFINE_integer("subset", None, "Number of bytes to learn from.")
flags.DEFINE_string("data_dir", None, "A folder of text files to learn from.")
flags.DEFINE_float("learning_rate", 5e-4, "Largest learning rate.")
flags.DEFINE_integer("rounds", 50, "How often the files take turns.")
flags.DEFINE_integer("seed", 0, "Random seed.")
flags.DEFINE_string("output_dir", "output/sparse", "Where to write.")


def train(data, validation):
    """Trains a transformer with many zeros."""
    keras.utils.set_random_seed(FLAGS.seed)
    plain = build_transformer(
        FLAGS.length, FLAGS.blocks, FLAGS.width, FLAGS.heads
    )
    model = keras_bimp.wrap(plain)
    model.compile(
        keras.optimizers.Adam(FLAGS.learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        *data,
        batch_size=32,
        epochs=FLAGS.epochs,
        validation_data=validation,
        callbacks=keras_bimp.callbacks(
            FLAGS.target_sparsity,
            dense_epochs=FLAGS.dense_epochs,
            cycles=FLAGS.cycles,
            retraining="allr",
            allocation="uniform",
        ),
        verbose=2,
    )
    return keras_bimp.strip(model)


def export(name, model, x, **kwargs):
    """Exports a SavedModel, and returns its folder and the SavedModel."""
    path = pathlib.Path(FLAGS.output_dir, name, "1")
    if path.is_dir():
        tf.io.gfile.rmtree(str(path))
    keras_bimp.export(model, path, example_data=x[:8], **kwargs)
    return path, tf.saved_model.load(str(path))


def accuracy(loaded, data):
    found = [
        loaded.serve(part).numpy().argmax(-1)
        for part in np.array_split(data[0], -(-len(data[0]) // 64))
    ]
    return np.mean(np.concatenate(found) == data[1])


def main(_):
    logging.set_verbosity(logging.WARNING)
    data, validation = load_text(FLAGS.length, FLAGS.subset, FLAGS.data_dir)
    pruned = train(data, validation)
    x = validation[0]
    paths, loaded = zip(
        export("dense", pruned, x),
        export("sparse", pruned, x, sparse_kernels="auto", batch_sizes=(1, 8)),
        strict=True,
    )
    table = rich.table.Table(
        title=f"\nFor texts of {FLAGS.length} bytes, medians"
    )
    for title in ("", "dense kernels", "sparse kernels", "ratio", "quartiles"):
        table.add_column(title, justify="right" if title else "left")
    found = [f"{accuracy(model, validation):.2%}" for model in loaded]
    table.add_row("accuracy", *found)
    sizes = [
        sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        for path in paths
    ]
    table.add_row(
        "folder",
        *(f"{size / 1e6:.1f} MB" for size in sizes),
        f"{sizes[0] / sizes[1]:.2f}",
    )
    for texts in (1, 8):
        functions = [
            lambda x, model=model: model.serve(x).numpy() for model in loaded
        ]
        times = milliseconds(functions, tf.constant(x[:texts]), FLAGS.rounds)
        low, ratio, high = np.percentile(times[0] / times[1], (25, 50, 75))
        table.add_row(
            f"{texts} texts",
            *(f"{t:.2f} ms" for t in np.median(times, axis=1)),
            f"{ratio:.2f}",
            f"{low:.2f} - {high:.2f}",
        )
    rich.console.Console().print(table)


if __name__ == "__main__":
    app.run(main)
