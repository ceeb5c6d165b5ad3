"""Shows which kernels of a network tolerate pruning, and uses it.

Trains a small residual network on 12,000 images of Fashion-MNIST, prunes each
kernel separately to several sparsities, and prints and plots the accuracies.
Then it prunes all kernels together, with and without the resulting sparsity
limits, and prints the accuracies before any retraining.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
from absl import app
from absl import flags
from absl import logging
from common import build_residual_network
from common import load_fashion_mnist

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 5, "Epochs of training.")
flags.DEFINE_string("granularity", "weight", "weight or filter.")
flags.DEFINE_float("target_sparsity", 0.5, "Sparsity of all kernels together.")
flags.DEFINE_float("max_drop", 0.05, "Accuracy that one kernel may cost.")
flags.DEFINE_integer("seed", 0, "Random seed.")
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps data.")
flags.DEFINE_string("output_dir", "output/layer_sensitivity", "Where to write.")


def train(data):
    keras.utils.set_random_seed(FLAGS.seed)
    model = build_residual_network(batch_norm_momentum=0.9)
    steps = FLAGS.epochs * -(-len(data[0]) // 128)
    model.compile(
        keras.optimizers.SGD(
            keras_bimp.schedules.Linear(0.1, steps), momentum=0.9, nesterov=True
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # Compiling takes longer than an epoch.
    )
    model.fit(*data, epochs=FLAGS.epochs, batch_size=128, verbose=2)
    return model


def print_accuracy_pruned(title, model, test, **how):
    """Prunes a copy of the model and prints its accuracy."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    wrapped = keras_bimp.wrap(copy)
    wrapped.compile(loss=model.loss, metrics=["accuracy"])
    keras_bimp.prune(
        wrapped, FLAGS.target_sparsity, granularity=FLAGS.granularity, **how
    )
    _, accuracy = wrapped.evaluate(*test, batch_size=1000, verbose=0)
    print(f"{title:<28}{accuracy:.2%}")


def main(_):
    logging.set_verbosity(logging.WARNING)
    output_dir = pathlib.Path(FLAGS.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    # The last 2,000 images are for measuring sensitivity.
    (x, y), test = load_fashion_mnist(FLAGS.data_dir, "train[:14000]")
    model = train((x[:12000], y[:12000]))
    result = keras_bimp.sensitivity(
        model, (x[12000:], y[12000:]), granularity=FLAGS.granularity
    )
    print(f"\n{result}\n")
    result.plot(output_dir / "sensitivity.png")
    _, accuracy = model.evaluate(*test, batch_size=1000, verbose=0)
    print(f"{'test accuracy, dense':<28}{accuracy:.2%}")
    print_accuracy_pruned(
        f"pruned to {FLAGS.target_sparsity:.0%}, uniform",
        model,
        test,
        allocation="uniform",
    )
    print_accuracy_pruned(
        f"pruned to {FLAGS.target_sparsity:.0%}, with caps",
        model,
        test,
        allocation="uniform",
        max_layer_sparsity=result.suggested_caps(FLAGS.max_drop),
    )
    print(f"\nWritten to {output_dir}: sensitivity.png")


if __name__ == "__main__":
    app.run(main)
