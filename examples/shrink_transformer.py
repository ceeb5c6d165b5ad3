"""Prunes heads and inner units of a transformer, and takes them out.

Trains a transformer to predict the next byte of the documentation that comes
with Python, prunes the heads of attention and the inner units of its blocks
that matter least, and retrains. What was pruned is then really gone: the
transformer has fewer parameters and is faster in any runtime. It is compared
with the same one that has its zeros in place, which are computed with, as a
SavedModel and in LiteRT. All files take turns.
"""

import os
import pathlib
import pydoc_data.topics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
import numpy as np
import rich.console
import rich.table
import tensorflow as tf
from absl import app
from absl import flags
from absl import logging
from keras import layers

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_float("target_sparsity", 0.5, "Share of heads and inner units.")
flags.DEFINE_integer("epochs", 8, "Total budget.")
flags.DEFINE_integer("dense_epochs", 5, "Epochs before the pruning.")
flags.DEFINE_integer("blocks", 4, "Of the transformer.")
flags.DEFINE_integer("width", 256, "Of the transformer.")
flags.DEFINE_integer("heads", 8, "Of each block.")
flags.DEFINE_integer("length", 64, "Bytes that it looks at.")
flags.DEFINE_integer("subset", None, "Number of bytes to learn from.")
flags.DEFINE_float("learning_rate", 1e-3, "Largest learning rate.")
flags.DEFINE_integer("rounds", 50, "How often the files take turns.")
flags.DEFINE_integer("seed", 0, "Random seed.")
flags.DEFINE_string("output_dir", "output/transformer", "Where to write.")


def load_text():
    """Pairs (bytes, next bytes) to learn from and to validate with."""
    topics = pydoc_data.topics.topics
    text = "\n\n".join(topics[name] for name in sorted(topics)).encode()
    rows = np.frombuffer(text[: FLAGS.subset], "uint8").astype("int32")
    rows = rows[: (len(rows) - 1) // FLAGS.length * FLAGS.length + 1]
    x, y = (part.reshape(-1, FLAGS.length) for part in (rows[:-1], rows[1:]))
    validation = np.arange(len(x)) % 10 == 9
    return [(x[here], y[here]) for here in (~validation, validation)]


def build_transformer():
    def block(x):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(FLAGS.heads, FLAGS.width // FLAGS.heads)(
            y, y, use_causal_mask=True
        )
        x = layers.Add()([x, layers.Dropout(0.1)(y)])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * FLAGS.width, activation="gelu")(y)
        y = layers.Dense(FLAGS.width)(y)
        return layers.Add()([x, layers.Dropout(0.1)(y)])

    inputs = keras.Input((FLAGS.length,), dtype="int32")
    places = keras.ops.cumsum(keras.ops.ones_like(inputs), axis=-1) - 1
    x = layers.Embedding(256, FLAGS.width)(inputs)
    x = x + layers.Embedding(FLAGS.length, FLAGS.width)(places)
    for _ in range(FLAGS.blocks):
        x = block(x)
    x = layers.LayerNormalization()(x)
    return keras.Model(inputs, layers.Dense(256)(x))


def train(data, validation):
    """A transformer with zeros for heads and units, and what was logged."""
    keras.utils.set_random_seed(FLAGS.seed)
    model = keras_bimp.wrap(build_transformer())
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
            granularity="unit",
        ),
        verbose=2,
    )
    return keras_bimp.strip(model), history.history


def new_path(name):
    """A path in the output folder with nothing there."""
    path = pathlib.Path(FLAGS.output_dir, name)
    if path.is_dir():
        tf.io.gfile.rmtree(str(path))
    path.unlink(missing_ok=True)
    return path


def saved_model(name, model):
    """A function that runs a SavedModel of the model."""
    path = new_path(f"{name}/1")
    keras_bimp.export(model, path)
    loaded = tf.saved_model.load(str(path))
    return lambda x: loaded.serve(x).numpy()


def litert(name, model):
    """A function that runs a LiteRT file of the model, in one thread."""
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


def milliseconds(functions, x):
    """What each takes for some rows, once a round."""
    times = [[] for _ in functions]
    for round_ in range(-3, FLAGS.rounds):
        for function, found in zip(functions, times, strict=True):
            begin = time.perf_counter()
            function(x)
            if round_ >= 0:  # The first rounds warm up.
                found.append(1000 * (time.perf_counter() - begin))
    return np.array(times)


def main(_):
    logging.set_verbosity(logging.WARNING)
    data, validation = load_text()
    pruned, logs = train(data, validation)
    small = keras_bimp.shrink(pruned)
    x = validation[0][:8]
    expected, found = (model.predict(x, verbose=0) for model in (pruned, small))
    print(f"\nOutputs differ by {np.abs(expected - found).max():.1e} at most")
    for title, name in (
        ("just before the pruning", "val_accuracy_before_pruning"),
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
        ("multiply-adds", lambda m: keras_bimp.metrics.count_flops(m).dense),
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
        times = milliseconds(functions, x[:texts])
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
