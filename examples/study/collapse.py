"""Shows how plain global pruning kills a layer, and `on_collapse` saves it.

Behind batch normalisation the scale of a convolution is free, so that the
smallest weights of a network may all lie in one kernel. One pruning of 98 % of
all weights then leaves that kernel next to nothing, and the network stays at
chance however long it is retrained. With `on_collapse="protect"`, the default,
each kernel keeps at least one weight per output unit.

Trains on 12,000 images of Fashion-MNIST: once densely, and from there once for
each value of `on_collapse`.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
import numpy as np
import tensorflow_datasets as tfds
from absl import app
from absl import flags
from absl import logging

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_float("target_sparsity", 0.98, "Fraction of weights to prune.")
flags.DEFINE_integer("dense_epochs", 15, "Epochs before the pruning.")
flags.DEFINE_integer("retrain_epochs", 15, "Epochs after it.")
flags.DEFINE_integer("seed", 0, "Random seed.")
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps data.")


def load_data():
    """Returns 12,000 training and 10,000 test images, in [0, 1]."""
    parts = []
    for split in ("train[:12000]", "test"):
        images, labels = tfds.as_numpy(
            tfds.load(
                "fashion_mnist",
                split=split,
                data_dir=FLAGS.data_dir,
                as_supervised=True,
                batch_size=-1,
            )
        )
        parts.append((images.astype("float32") / 255, labels))
    return parts


def build_model():
    """Four convolutions and a dense layer, 33,040 prunable weights."""
    keras.utils.set_random_seed(FLAGS.seed)
    model = keras.Sequential([keras.Input((28, 28, 1))])
    for filters, strides in ((16, 2), (32, 1), (32, 2), (64, 1)):
        model.add(
            keras.layers.Conv2D(
                filters, 3, strides, padding="same", use_bias=False
            )
        )
        model.add(keras.layers.BatchNormalization())
        model.add(keras.layers.ReLU())
    model.add(keras.layers.GlobalAveragePooling2D())
    model.add(keras.layers.Dense(10))
    return model


def compile_model(model):
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def main(_):
    logging.set_verbosity(logging.WARNING)
    (x, y), test = load_data()
    dense = compile_model(build_model())
    steps = FLAGS.dense_epochs * -(-len(x) // 128)
    dense.optimizer.learning_rate = keras_bimp.schedules.Linear(0.1, steps)
    dense.fit(x, y, epochs=FLAGS.dense_epochs, batch_size=128, verbose=2)
    weights = dense.get_weights()
    rows = [("dense", "", dense.evaluate(*test, verbose=0)[1], dense)]
    for on_collapse in ("ignore", "protect"):
        plain = build_model()
        plain.set_weights(weights)
        model = compile_model(keras_bimp.wrap(plain))
        model.fit(
            x,
            y,
            epochs=FLAGS.retrain_epochs,
            batch_size=128,
            callbacks=keras_bimp.callbacks(
                FLAGS.target_sparsity,
                dense_epochs=0,
                original_epochs=FLAGS.dense_epochs,
                on_collapse=on_collapse,
            ),
            verbose=2,
        )
        pruned = keras_bimp.strip(model)
        accuracy = pruned.evaluate(*test, verbose=0)[1]
        rows.append(("one-shot ALLR", on_collapse, accuracy, pruned))

    print("| training | on_collapse | test accuracy % | zeros | weights left |")
    print("|---|---|---|---|---|")
    for name, on_collapse, accuracy, model in rows:
        kernels = [
            kernel.variable.numpy()
            for kernel in keras_bimp.masking.find_prunable(model).kernels
        ]
        zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
        left = " ".join(f"{np.count_nonzero(kernel):,}" for kernel in kernels)
        print(
            f"| {name} | {on_collapse} | {100 * accuracy:.1f} | {zeros:,} of "
            f"{sum(kernel.size for kernel in kernels):,} | {left} |"
        )


if __name__ == "__main__":
    app.run(main)
