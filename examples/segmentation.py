"""Prunes a network for semantic segmentation, and draws its predictions.

Trains one network with budgeted iterative magnitude pruning and one dense
network for the same number of epochs, and compares their mIoU: the intersection
over union of labels and predictions, averaged over the classes.


    python examples/segmentation.py --network=pspnet --dataset=cityscapes \
        --epochs=60 --dense_epochs=40
"""

import functools
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
import numpy as np
from absl import app
from absl import flags
from absl import logging
from study import data
from study import networks

import keras_bimp

NETWORKS = {
    "small_pspnet": functools.partial(
        networks.pspnet, width=12, blocks=(1, 1, 1, 1), bottleneck=False
    ),
    "pspnet": networks.pspnet,
    "unet": networks.unet,
    "deeplab_v3": networks.deeplab_v3,
}

FLAGS = flags.FLAGS
flags.DEFINE_enum("network", "small_pspnet", list(NETWORKS), "To be trained.")
flags.DEFINE_enum(
    "dataset", "camvid", ["camvid", "cityscapes", "coco"], "Training data."
)
flags.DEFINE_float("target_sparsity", 0.9, "Fraction of weights to prune.")
flags.DEFINE_integer("epochs", 45, "Total budget, for each network.")
flags.DEFINE_integer("dense_epochs", 30, "Epochs before the first pruning.")
flags.DEFINE_integer("cycles", 3, "How often to prune and retrain.")
flags.DEFINE_string("retraining", "allr", "Schedule: allr, llr, ft, ...")
flags.DEFINE_float("learning_rate", 0.1, "Largest learning rate.")
flags.DEFINE_float("weight_decay", 5e-4, "Coupled.")
flags.DEFINE_integer("batch_size", 16, "Images per step.")
flags.DEFINE_integer("pictures", 4, "Number of test images to draw.")
flags.DEFINE_integer("seed", 0, "Random seed.")
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps data.")
flags.DEFINE_string("output_dir", "output/segmentation", "Where to write.")


def load_task():
    return data.load(
        FLAGS.dataset,
        data_dir=FLAGS.data_dir,
        batch_size=FLAGS.batch_size,
        seed=FLAGS.seed,
    )


def build_model(task):
    keras.utils.set_random_seed(FLAGS.seed)
    return NETWORKS[FLAGS.network](
        **task.network, weight_decay=FLAGS.weight_decay
    )


def compile_and_fit(model, task, learning_rate, callbacks=()):
    model.compile(
        keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True),
        task.loss,
        metrics=task.metrics(),
        jit_compile=False,  # Compiling takes longer than many epochs.
    )
    model.fit(
        task.train,
        epochs=FLAGS.epochs,
        shuffle=False,  # The data set shuffles.
        validation_data=task.validation,
        callbacks=list(callbacks),
        verbose=2,
    )


def train_dense():
    task = load_task()
    model = build_model(task)
    steps = FLAGS.epochs * len(task.train)
    schedule = keras_bimp.schedules.Linear(FLAGS.learning_rate, steps)
    compile_and_fit(model, task, schedule)
    return model


def train_sparse():
    task = load_task()
    model = keras_bimp.wrap(build_model(task))
    callbacks = keras_bimp.callbacks(
        FLAGS.target_sparsity,
        dense_epochs=FLAGS.dense_epochs,
        cycles=FLAGS.cycles,
        retraining=FLAGS.retraining,
        allocation="global",
    )
    compile_and_fit(model, task, FLAGS.learning_rate, callbacks)
    return keras_bimp.strip(model)


def draw(task, models, path):
    """Draws test images, their labels, and what the models predict."""
    import matplotlib.pyplot as plt

    count = FLAGS.pictures
    images, labels = next(iter(task.test.unbatch().batch(count)))
    columns = {"image": as_colours(images), "truth": np.array(labels)}
    for name, model in models.items():
        columns[name] = model.predict(images, verbose=0).argmax(-1)
    figure, grid = plt.subplots(
        len(images),
        len(columns),
        figsize=(2.6 * len(columns), 2 * len(images)),
        squeeze=False,
    )
    classes = task.network["classes"]
    for axes, (name, pixels) in zip(grid.T, columns.items(), strict=True):
        axes[0].set_title(name)
        for axis, each in zip(axes, pixels, strict=True):
            if each.ndim == 2:  # Pixels without a class stay white.
                each = np.ma.masked_greater_equal(each, classes)
            axis.imshow(
                each, "tab20", vmin=0, vmax=classes - 1, interpolation="nearest"
            )
            axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def as_colours(images):
    """Scales images of zero mean to values from 0 to 1."""
    images = np.array(images)
    lowest, highest = images.min(), images.max()
    return (images - lowest) / (highest - lowest)


def main(_):
    logging.set_verbosity(logging.WARNING)
    output_dir = pathlib.Path(FLAGS.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    print(f"Training a sparse {FLAGS.network}")
    sparse = train_sparse()
    print(f"Training a dense {FLAGS.network} for as many epochs")
    dense = train_dense()

    task = load_task()
    summary = {
        "dense_miou": task.score(dense, task.test),
        "miou": task.score(sparse, task.test),
        "sparsity": keras_bimp.sparsity(sparse).prunable,
        "theoretical_speedup": keras_bimp.metrics.theoretical_speedup(sparse),
    }
    (output_dir / "summary.json").write_text(json.dumps(summary, indent=1))
    sparse.save(output_dir / "model.keras")
    draw(task, {"dense": dense, "sparse": sparse}, output_dir / "examples.png")
    print(
        f"{FLAGS.dataset} test mIoU: dense {summary['dense_miou']:.2f}%, "
        f"{summary['sparsity']:.2%} sparse {summary['miou']:.2f}%\n"
        f"Written to {output_dir}: model.keras, examples.png, summary.json"
    )


if __name__ == "__main__":
    app.run(main)
