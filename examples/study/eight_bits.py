"""What 8 bits cost a pruned network in accuracy.

Trains a network on a part of Fashion-MNIST, prunes it, writes it as a packed
and as LiteRT files with 32 and with 8 bits, loads every file again, and counts
how many of the 10,000 test images it tells right, and for how many it says
something else than the model. `--keep` names a file for the trained model: if
it is there already, nothing is trained.
"""

import dataclasses
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import data
import keras
import networks
import numpy as np
from absl import app
from absl import flags
from absl import logging

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_string("network", "resnet56", "A function of `networks`.")
flags.DEFINE_integer("images", 10_000, "Training images; 0 for all.")
flags.DEFINE_integer("shrink", 1, "Pixels of a side that become one.")
flags.DEFINE_integer("epochs", 5, "Total budget.")
flags.DEFINE_integer("dense_epochs", 2, "Epochs before the pruning.")
flags.DEFINE_integer("batch_size", 64, "Of training.")
flags.DEFINE_float("target_sparsity", 0.9, "To prune to.")
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps data.")
flags.DEFINE_string("keep", None, "A .keras file for the trained model.")

WAYS = (
    ("packed", None),
    ("packed", "int8_weights"),
    ("litert", None),
    ("litert", "int8"),
    ("litert", "int8_weights"),
)
SUFFIXES = {"packed": ".packed", "litert": ".tflite"}
BATCH = 250
EXAMPLES = 200  # To calibrate with.


def load():
    """The task, with images of fewer pixels if that is asked for."""
    task = data.load(
        "fashion_mnist",
        data_dir=FLAGS.data_dir,
        batch_size=FLAGS.batch_size,
        subset=FLAGS.images or None,
        augment=False,
    )
    shrink = keras.layers.AveragePooling2D(FLAGS.shrink)

    def smaller(images, labels):
        return shrink(images), labels

    return dataclasses.replace(
        task, train=task.train.map(smaller), test=task.test.map(smaller)
    )


def train(task):
    """The pruned network."""
    keras.utils.set_random_seed(0)
    build = getattr(networks, FLAGS.network)
    shape = task.train.element_spec[0].shape[1:]
    options = task.network | {"input_shape": shape}
    model = keras_bimp.wrap(build(**options))
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        task.loss,
        metrics=task.metrics(),
        jit_compile=False,
    )
    model.fit(
        task.train,
        epochs=FLAGS.epochs,
        shuffle=False,  # They come shuffled.
        callbacks=keras_bimp.callbacks(
            FLAGS.target_sparsity,
            dense_epochs=FLAGS.dense_epochs,
            cycles=1,
            verbose=0,
        ),
        verbose=2,
    )
    return keras_bimp.strip(model)


def kept_or_trained(task):
    path = FLAGS.keep and pathlib.Path(FLAGS.keep)
    if path and path.exists():
        return keras.models.load_model(path, compile=False)
    model = train(task)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    return model


def litert(path):
    """A function that runs a file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    (given,) = interpreter.get_input_details()
    (found,) = interpreter.get_output_details()

    def compute(images):
        if tuple(interpreter.get_input_details()[0]["shape"]) != images.shape:
            interpreter.resize_tensor_input(given["index"], images.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(found["index"])

    return compute


def packed(path):
    model = keras_bimp.exporting.load_packed(path, compile=False)
    return lambda images: model.predict_on_batch(images)


LOADERS = {"packed": packed, "litert": litert}


def arrays(batches):
    """All images and all labels."""
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def answers(compute, images):
    """The class that is told for each image."""
    parts = np.split(images, range(BATCH, len(images), BATCH))
    return np.concatenate([compute(part).argmax(-1) for part in parts])


def main(_):
    logging.set_verbosity(logging.WARNING)
    task = load()
    images, labels = arrays(task.test)
    examples, _ = arrays(task.train.take(-(-EXAMPLES // FLAGS.batch_size)))
    model = kept_or_trained(task)
    share = keras_bimp.sparsity(model).prunable
    expected = answers(model.predict_on_batch, images)
    print(
        f"{FLAGS.network}: {share:.1%} zeros, {len(labels):,} test images, of "
        f"which the model tells {np.mean(expected == labels):.2%} right\n\n"
        "| file | right | other answers than the model's |\n|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for format, quantize in WAYS:
            name = f"{format}, {quantize or 'float32'}"
            path = pathlib.Path(folder, name + SUFFIXES[format])
            more = {"calibration_data": examples}
            keras_bimp.export(
                model,
                path,
                format,
                quantize=quantize,
                example_data=examples,
                tolerance=0.5,  # It is answers that are compared below.
                verbose=0,
                **(more if quantize == "int8" else {}),
            )
            found = answers(LOADERS[format](path), images)
            print(
                f"| {name} | {np.mean(found == labels):.2%} | "
                f"{np.mean(found != expected):.2%} |",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)
