"""Searches for the best use of a budget of epochs with KerasTuner.

How many epochs should be dense, and how many pruning cycles should the rest of
the budget have? Each combination is tried on a small network for handwritten
digits, which come with scikit-learn, and evaluated on validation images. The
best is trained again and evaluated on the test images.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
import keras_tuner
import sklearn.datasets
import sklearn.model_selection
from absl import app
from absl import flags
from absl import logging

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_float("target_sparsity", 0.98, "Fraction of weights to prune.")
flags.DEFINE_integer("epochs", 40, "Total budget.")
flags.DEFINE_list("dense_epochs", ["4", "12", "20"], "Which to try.")
flags.DEFINE_list("cycles", ["1", "2", "3"], "Which to try.")
flags.DEFINE_integer("max_trials", None, "Number of trials; default: all.")
flags.DEFINE_integer("seed", 0, "Random seed.")
flags.DEFINE_string("output_dir", "output/tune", "Where to write.")


def load_data():
    """Returns 1,077 training, 360 validation and 360 test images."""
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    images = (images / 16).astype("float32")

    def hold_out(x, y):
        return sklearn.model_selection.train_test_split(
            x, y, test_size=360, stratify=y, random_state=0
        )

    x, x_test, y, y_test = hold_out(images, labels)
    x, x_validation, y, y_validation = hold_out(x, y)
    return (x, y), (x_validation, y_validation), (x_test, y_test)


class PrunedNetwork(keras_tuner.HyperModel):
    """Builds a wrapped network, and trains and prunes it."""

    def build(self, hp):
        # KerasTuner calls `build` to find the search space.
        hp.Choice("dense_epochs", [int(n) for n in FLAGS.dense_epochs])
        hp.Choice("cycles", [int(n) for n in FLAGS.cycles])
        keras.utils.set_random_seed(FLAGS.seed)
        model = keras_bimp.wrap(
            keras.Sequential(
                [
                    keras.Input((64,)),
                    keras.layers.Dense(128, activation="relu"),
                    keras.layers.Dense(64, activation="relu"),
                    keras.layers.Dense(10),
                ]
            )
        )
        model.compile(
            keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        return model

    def fit(self, hp, model, *args, **kwargs):
        history = model.fit(
            *args,
            epochs=FLAGS.epochs,
            callbacks=keras_bimp.callbacks(
                FLAGS.target_sparsity,
                dense_epochs=hp.get("dense_epochs"),
                cycles=hp.get("cycles"),
                retraining="allr",
                allocation="global",
                verbose=0,
            ),
            **kwargs,
        )
        # The last epoch counts: the best one may be before pruning.
        return {"val_accuracy": history.history["val_accuracy"][-1]}


class Search(keras_tuner.GridSearch):
    """A search that judges a trial only by the result of its `fit`.

    By default, KerasTuner keeps the weights of a trial's best epoch, which may
    be before pruning, and copies the callbacks passed to `search`.
    """

    def run_trial(self, trial, *args, **kwargs):
        model = self.hypermodel.build(trial.hyperparameters)
        return self.hypermodel.fit(
            trial.hyperparameters, model, *args, **kwargs
        )


def main(_):
    logging.set_verbosity(logging.WARNING)
    train, validation, test = load_data()
    network = PrunedNetwork()
    tuner = Search(
        network,
        keras_tuner.Objective("val_accuracy", direction="max"),
        max_trials=FLAGS.max_trials,
        directory=FLAGS.output_dir,
        project_name="search",
        overwrite=True,
    )
    tuner.search(*train, validation_data=validation, verbose=0)
    for trial in tuner.oracle.get_best_trials(len(tuner.oracle.trials)):
        print(f"{trial.hyperparameters.values}: {trial.score:.2%}")
    (best,) = tuner.get_best_hyperparameters()
    model = network.build(best)
    network.fit(best, model, *train, validation_data=validation, verbose=0)
    pruned = keras_bimp.strip(model)
    _, accuracy = pruned.evaluate(*test, verbose=0)
    path = os.path.join(FLAGS.output_dir, "model.keras")
    pruned.save(path)
    print(
        f"\nBest: {best.values}; test accuracy {accuracy:.2%}, sparsity "
        f"{keras_bimp.sparsity(pruned).prunable:.2%}, in {path}"
    )


if __name__ == "__main__":
    app.run(main)
