"""From a trained network to the smallest file that still runs.

Trains a convolutional network on the 1,797 handwritten digits that come with
scikit-learn, and prunes it to several sparsities, each from the trained network
with a short retraining. Each is written as a `.keras`, a LiteRT and a packed
file, with weights of 32 bits and of 8. Every file is loaded again, and its
accuracy is that of what was loaded. Prints a table and draws accuracy against
size.
"""

import gzip
import os
import pathlib
import shutil
import warnings

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
flags.DEFINE_list("sparsities", ["0.8", "0.9", "0.95", "0.98"], "Of weights.")
flags.DEFINE_integer("epochs", 20, "Of the dense training.")
flags.DEFINE_integer("retrain_epochs", 10, "After the pruning.")
flags.DEFINE_integer("seed", 0, "Random seed.")
flags.DEFINE_string("output_dir", "output/smallest", "Where to write.")

KERAS, LITERT, PACKED = ".keras", "LiteRT", "packed"


def compile_and_fit(model, train, epochs, callbacks, rate):
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        *train, epochs=epochs, batch_size=64, callbacks=callbacks, verbose=0
    )


def train_dense(train):
    keras.utils.set_random_seed(FLAGS.seed)
    model = build_model()
    steps = FLAGS.epochs * -(-len(train[0]) // 64)
    rate = keras_bimp.schedules.Linear(0.1, steps)
    compile_and_fit(model, train, FLAGS.epochs, [], rate)
    return model


def pruned(dense, sparsity, train):
    """The trained network, pruned and retrained."""
    model = copy_of(dense)
    if not sparsity:
        return model
    wrapped = keras_bimp.wrap(model)
    callbacks = keras_bimp.callbacks(
        sparsity,
        dense_epochs=0,
        original_epochs=FLAGS.epochs,
        retraining="llr",
        verbose=0,
    )
    compile_and_fit(wrapped, train, FLAGS.retrain_epochs, callbacks, 0.1)
    return keras_bimp.strip(wrapped)


def copy_of(model):
    other = build_model()
    other.set_weights(model.get_weights())
    return other


def write_all(model, folder, examples):
    """Writes a model in each format, with 32 and 8 bits, and yields files."""
    folder.mkdir(parents=True)
    plain = copy_of(model)  # Without what an optimizer remembers.
    plain.save(folder / "model.keras")
    yield KERAS, 32, folder / "model.keras"
    # Of dense layers, for Keras has none of convolutions.
    eight = copy_of(model)
    eight.quantize("int8")
    eight.save(folder / "8_bits.keras")
    yield KERAS, 8, folder / "8_bits.keras"
    for bits, name, more in (
        (32, "model", {}),
        (8, "8_bits", {"quantize": "int8", "calibration_data": examples}),
    ):
        path = folder / f"{name}.tflite"
        yield LITERT, bits, keras_bimp.export(model, path, "litert", **more)
    for bits, name, more in (
        (32, "model", {}),
        (8, "8_bits", {"quantize": "int8_weights"}),
    ):
        path = folder / f"{name}.packed"
        more["example_data"] = examples
        yield PACKED, bits, keras_bimp.export(model, path, "packed", **more)


def outputs_of(format, path, images):
    """What a file computes once it is loaded."""
    if format == LITERT:
        return run_litert(path, images)
    load = keras.models.load_model
    if format == PACKED:
        load = keras_bimp.exporting.load_packed
    return load(path, compile=False).predict(images, verbose=0)


def run_litert(path, images):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    (given,) = interpreter.get_input_details()
    (found,) = interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(found["index"])


def measure(dense, train, test, folder):
    """Yields sparsity, format, bits, two sizes, and accuracy, of each file."""
    images, labels = test
    for sparsity in (0.0, *map(float, FLAGS.sparsities)):
        model = pruned(dense, sparsity, train)
        share = keras_bimp.sparsity(model).prunable
        print(f"{share:.1%} zeros", flush=True)
        files = write_all(model, folder / f"{sparsity:.0%}", train[0][:200])
        for format, bits, path in files:
            data = path.read_bytes()
            found = outputs_of(format, path, images).argmax(-1)
            accuracy = np.mean(found == labels)
            yield (
                share, format, bits, len(data), len(gzip.compress(data)),
                accuracy,
            )  # fmt: skip


def print_table(rows):
    table = rich.table.Table(title="\nFiles, gzipped where that is smaller")
    for title in ("zeros", "file", "bits", "as it is", "gzipped", "accuracy"):
        table.add_column(title, justify="left" if title == "file" else "right")
    for share, format, bits, plain, gzipped, accuracy in rows:
        table.add_row(
            f"{share:.1%}",
            format,
            f"{bits}",
            f"{plain / 1000:,.1f} kB",
            f"{gzipped / 1000:,.1f} kB",
            f"{accuracy:.2%}",
        )
    rich.console.Console().print(table)
    best = max(row[-1] for row in rows)
    near = [row for row in rows if row[-1] >= best - 0.01]
    share, format, bits, *sizes, accuracy = min(
        near, key=lambda row: min(row[3:5])
    )
    print(
        f"Smallest within a point of the best: {format} with {bits} bits and "
        f"{share:.1%} zeros, {min(sizes):,} bytes, {accuracy:.2%}"
    )


def plot(rows, path):
    """Draws accuracy against the smaller of both sizes, a line per format."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    for color, format in enumerate((KERAS, LITERT, PACKED)):
        for bits, style in ((32, "-o"), (8, "--s")):
            line = [row for row in rows if row[1:3] == (format, bits)]
            axes.plot(
                [min(row[3:5]) / 1000 for row in line],
                [100 * row[-1] for row in line],
                style,
                color=f"C{color}",
                markerfacecolor="white" if bits == 8 else None,
                label=f"{format}, {bits} bits",
            )
    # Zeros are named once, at the line of the largest files.
    for row in rows:
        if row[1:3] == (KERAS, 32):
            axes.annotate(
                f"{row[0]:.0%}",
                (min(row[3:5]) / 1000, 100 * row[-1]),
                textcoords="offset points",
                xytext=(4, 6),
                fontsize=8,
            )
    axes.set_xscale("log")
    ticks = [5, 10, 20, 50, 100, 200, 300]
    axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("kB, gzipped where that is smaller")
    axes.set_ylabel("test accuracy %")
    axes.set_title("Digits: share of zeros along each line")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(_):
    logging.set_verbosity(logging.WARNING)
    # Keras says of each layer that it cannot quantize.
    warnings.filterwarnings("ignore", "Layer .* does not have a `quantize`")
    folder = pathlib.Path(FLAGS.output_dir)
    shutil.rmtree(folder / "files", ignore_errors=True)
    train, test = load_data()
    print(f"Training densely for {FLAGS.epochs} epochs", flush=True)
    dense = train_dense(train)
    rows = list(measure(dense, train, test, folder / "files"))
    print_table(rows)
    plot(rows, folder / "smallest.png")
    print(f"Into {folder}: smallest.png, and the files into files/")


if __name__ == "__main__":
    app.run(main)
