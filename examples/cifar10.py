"""Prunes a ResNet-56 on CIFAR-10 within a budget of 200 epochs.

Budgeted iterative magnitude pruning: half of the budget is dense, the rest is
cycles of pruning and retraining. The last 10% of the training images are for
validation. The test images are used once, at the end. If you kill the script
and start it again, it resumes where it stopped.

`study/networks` has the networks and `study/data` the data sets of images.
`cifar100.py` and `imagenet.py` are this script with other defaults.
"""

import os
import pathlib
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
from absl import app
from absl import flags
from absl import logging
from study import data
from study import networks

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", "cifar10", "Name of a data set of images.")
flags.DEFINE_string("network", "resnet56", "Name of a network.")
flags.DEFINE_float("target_sparsity", 0.95, "Fraction of weights to prune.")
flags.DEFINE_integer("epochs", 200, "Total budget.")
flags.DEFINE_integer(
    "dense_epochs", None, "Epochs before the first pruning; default: half."
)
flags.DEFINE_integer("cycles", 2, "How often to prune and retrain.")
flags.DEFINE_string("retraining", "allr", "Schedule: allr, llr, ft, ...")
flags.DEFINE_float("learning_rate", 0.1, "Largest learning rate.")
flags.DEFINE_float("weight_decay", 5e-4, "Coupled weight decay.")
flags.DEFINE_integer("batch_size", 128, "Images per step.")
flags.DEFINE_integer("subset", None, "Number of training images; default: all.")
flags.DEFINE_string(
    "dtype", "float32", "Data type to compute in, such as mixed_float16."
)
flags.DEFINE_integer("seed", 0, "Random seed.")
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps data.")
flags.DEFINE_string("output_dir", "output/cifar10", "Where to write.")


def build_model(task):
    keras.config.set_dtype_policy(FLAGS.dtype)
    build = getattr(networks, FLAGS.network)
    model = keras_bimp.wrap(
        build(**task.network, weight_decay=FLAGS.weight_decay)
    )
    model.compile(
        keras.optimizers.SGD(FLAGS.learning_rate, momentum=0.9, nesterov=True),
        task.loss,
        metrics=task.metrics(),
    )
    return model


def print_progress(epoch, logs):
    print(
        f"epoch {epoch + 1:3d}/{FLAGS.epochs}  "
        f"train {logs['accuracy']:7.2%}  "
        f"validation {logs['val_accuracy']:7.2%}  "
        f"sparsity {logs['sparsity']:6.2%}  "
        f"learning rate {logs['learning_rate']:.4f}",
        flush=True,
    )


def train(model, task, backup_dir):
    dense_epochs = FLAGS.dense_epochs
    if dense_epochs is None:
        dense_epochs = FLAGS.epochs // 2
    return model.fit(
        task.train,
        epochs=FLAGS.epochs,
        validation_data=task.validation,
        shuffle=False,  # The data set shuffles.
        callbacks=[
            *keras_bimp.callbacks(
                FLAGS.target_sparsity,
                dense_epochs=dense_epochs,
                cycles=FLAGS.cycles,
                retraining=FLAGS.retraining,
                allocation="global",
                backup_dir=backup_dir,
            ),
            keras.callbacks.LambdaCallback(on_epoch_end=print_progress),
        ],
        verbose=0,
    )


def main(_):
    logging.set_verbosity(logging.WARNING)
    keras.utils.set_random_seed(FLAGS.seed)
    output_dir = pathlib.Path(FLAGS.output_dir)
    task = data.load(
        FLAGS.dataset,
        data_dir=FLAGS.data_dir,
        batch_size=FLAGS.batch_size,
        subset=FLAGS.subset,
        seed=FLAGS.seed,
    )
    model = build_model(task)
    history = train(model, task, output_dir / "backup")
    pruned = keras_bimp.strip(model)
    pruned.save(output_dir / "model.keras")
    report = keras_bimp.report(
        pruned,
        data=task.test,
        history=history,
        path=output_dir / "report.html",
        verbose=0,
    )
    shutil.rmtree(output_dir / "backup")
    accuracy, _ = report.metrics["accuracy"]
    print(
        f"\nTest accuracy {accuracy:.2%} at {report.sparsity:.2%} sparsity"
        f"\nWritten to {output_dir}: model.keras and report.html"
    )
    if task.notice:
        print(f"\n{task.notice}")


if __name__ == "__main__":
    app.run(main)
