"""Prunes a transformer that translates from English to German.

Trains a small encoder-decoder on Multi30k, captions of photographs, twice for
the same number of epochs: dense, and with budgeted iterative magnitude pruning.
Prints the BLEU score of both, and their translations of a few sentences:

    python examples/translation.py --data_dir=~/tensorflow_datasets

The data set is too small for good translations. The point is how much quality
is left with a tenth of the weights.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
import rich.console
import rich.table
from absl import app
from absl import flags
from absl import logging
from study import data
from study import networks

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_float("target_sparsity", 0.9, "Fraction of weights to prune.")
flags.DEFINE_integer("epochs", 10, "Total budget, for each network.")
flags.DEFINE_integer("dense_epochs", 7, "Epochs before the first pruning.")
flags.DEFINE_integer("cycles", 1, "How often to prune and retrain.")
flags.DEFINE_string("retraining", "allr", "Schedule: allr, llr, clr, ft, ...")
flags.DEFINE_float("learning_rate", 0.5, "Largest learning rate.")
flags.DEFINE_integer("width", 64, "Width of the transformer.")
flags.DEFINE_integer("subset", None, "Number of sentences to learn from.")
flags.DEFINE_integer("sentences", 4, "How many translations to print.")
flags.DEFINE_integer("seed", 0, "Random seed.")
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps data.")


def load():
    return data.load(
        "multi30k",
        data_dir=FLAGS.data_dir and os.path.expanduser(FLAGS.data_dir),
        batch_size=64,
        subset=FLAGS.subset,
        seed=FLAGS.seed,
    )


def train(task, learning_rate, wrap=None, callbacks=()):
    """Builds and trains a transformer, wrapped if `wrap` is given."""
    keras.utils.set_random_seed(FLAGS.seed)
    model = networks.transformer(**task.network, width=FLAGS.width)
    if wrap:
        model = wrap(model)
    model.compile(
        keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True),
        task.loss,
        metrics=task.metrics(),
    )
    model.fit(
        task.train,
        epochs=FLAGS.epochs,
        validation_data=task.validation,
        callbacks=list(callbacks),
        shuffle=False,  # The data set shuffles.
        verbose=2,
    )
    return model


def train_dense(task):
    steps = FLAGS.epochs * int(task.train.cardinality())
    return train(task, keras_bimp.schedules.Linear(FLAGS.learning_rate, steps))


def train_sparse(task):
    model = train(
        task,
        FLAGS.learning_rate,
        keras_bimp.wrap,
        keras_bimp.callbacks(
            FLAGS.target_sparsity,
            dense_epochs=FLAGS.dense_epochs,
            cycles=FLAGS.cycles,
            retraining=FLAGS.retraining,
            allocation="global",
        ),
    )
    return keras_bimp.strip(model)


def print_comparison(task, models):
    table = rich.table.Table(title=f"\nThe same {FLAGS.epochs} epochs")
    for title in ("", "sparsity", "BLEU"):
        table.add_column(title, justify="right" if title else "left")
    for name, model in models.items():
        sparsity = keras_bimp.sparsity(model).prunable
        bleu = task.score(model, task.test)
        table.add_row(name, f"{sparsity:.1%}", f"{bleu:.1f}")
    rich.console.Console().print(table)


def print_translations(task, models):
    few = task.test.unbatch().take(FLAGS.sentences).batch(FLAGS.sentences)
    by_model = [task.score.translate(model, few) for model in models.values()]
    for of_sentence in zip(*by_model, strict=True):
        print(f"\nEnglish    {of_sentence[0].source}")
        print(f"reference  {of_sentence[0].reference}")
        for name, found in zip(models, of_sentence, strict=True):
            print(f"{name:9}  {found.translation}")


def main(_):
    logging.set_verbosity(logging.WARNING)
    task = load()
    print(f"Training a dense transformer for {FLAGS.epochs} epochs")
    models = {"dense": train_dense(task)}
    print(f"\nTraining with {FLAGS.target_sparsity:.0%} sparsity for as many")
    models["sparse"] = train_sparse(task)
    print_comparison(task, models)
    print_translations(task, models)


if __name__ == "__main__":
    app.run(main)
