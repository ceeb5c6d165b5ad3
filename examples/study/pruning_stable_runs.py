"""One run of `pruning_stable.py`: a method, its settings and its results.

The networks are small, so that hundreds of runs take an hour on two cores.
"""

import functools
import time

import keras
import numpy as np
import sklearn.datasets
import sklearn.model_selection
import tensorflow_datasets as tfds

import keras_bimp

BATCH_SIZES = {"digits": 64, "fashion_mnist": 128}


@functools.cache
def load(dataset, data_dir):
    """Returns the training, validation and test set, each `(x, y)`.

    For digits, 20% of the training images are for validation. For
    Fashion-MNIST, the first half of them is for training and the last tenth
    for validation.
    """
    if dataset == "digits":
        images, labels = sklearn.datasets.load_digits(return_X_y=True)
        images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
        split = functools.partial(
            sklearn.model_selection.train_test_split,
            test_size=0.2,
            random_state=0,
        )
        x, x_test, y, y_test = split(images, labels, stratify=labels)
        x, x_held_out, y, y_held_out = split(x, y, stratify=y)
        return (x, y), (x_held_out, y_held_out), (x_test, y_test)
    parts = []
    for part in ("train[:30000]", "train[54000:]", "test"):
        images, labels = tfds.as_numpy(
            tfds.load(
                dataset,
                split=part,
                data_dir=data_dir,
                as_supervised=True,
                batch_size=-1,
            )
        )
        parts.append(((images.astype("float32") / 255 - 0.286) / 0.353, labels))
    return parts


def build_model(shape, weight_decay):
    """Builds LeNet-300-100 for images of some shape.

    It has 50,200 prunable weights for digits, 266,200 for Fashion-MNIST. Its
    kernels have similar scales, so that methods with global selection from the
    first step leave none of them empty.
    """
    dense = functools.partial(
        keras.layers.Dense,
        kernel_regularizer=keras.regularizers.L2(weight_decay / 2)
        if weight_decay
        else None,
    )
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Flatten(),
            dense(300, activation="relu"),
            dense(100, activation="relu"),
            dense(10),
        ]
    )


def recipe_of(run, schedule):
    """Returns the `keras_bimp.baselines` recipe of a run; `None` for BIMP."""
    baselines, target = keras_bimp.baselines, run["target_sparsity"]
    settings = {
        name: value
        for name, value in run["settings"].items()
        if name not in ("rate_factor", "schedule", "weight_decay")
    }
    match run["method"]:
        case "bimp" | "dense":
            return None
        case "gmp" | "dpf" | "dnw":
            make = getattr(baselines, run["method"])
            return make(target, **settings, verbose=0)
        case "gsm":
            return baselines.gsm(
                target,
                learning_rate=schedule,
                nesterov=True,
                weight_decay=run["settings"]["weight_decay"],
                **settings,
                verbose=0,
            )
        case "lc":
            decay = run["settings"]["weight_decay"]
            return baselines.lc(target, weight_decay=decay, verbose=0)
        case "str":
            decay = run["settings"]["weight_decay"]
            return baselines.str(weight_decay=decay, **settings, verbose=0)
        case "cs" | "dst":
            return getattr(baselines, run["method"])(**settings, verbose=0)


def rates(run, steps):
    """Returns the learning rates of a whole run."""
    rate = run["learning_rate"] * run["settings"].get("rate_factor", 1)
    match run["settings"].get("schedule", "linear"):
        case "linear":
            return keras_bimp.schedules.Linear(rate, steps)
        case "stepped":
            return keras.optimizers.schedules.PiecewiseConstantDecay(
                [int(0.45 * steps), int(0.9 * steps)],
                [rate, rate / 10, rate / 100],
            )
        case "cyclic":
            interval = run["settings"]["interval"] * steps // run["epochs"]
            return keras_bimp.baselines.Cyclic(rate, steps, interval)


def execute(run, data_dir):
    """Executes a run.

    Args:
        run: A dict with `dataset`, `method`, `target_sparsity`, `epochs`,
            `learning_rate`, `seed` and `settings`: the settings of the method,
            `weight_decay`, `schedule` and `rate_factor`.
        data_dir: Where TensorFlow Datasets keeps data.

    Returns:
        A dict: accuracies on the validation and test sets, sparsity, seconds.
    """
    begin = time.perf_counter()
    (x, y), held_out, test = load(run["dataset"], data_dir)
    keras.backend.clear_session()
    keras.utils.set_random_seed(run["seed"])
    batch_size = BATCH_SIZES[run["dataset"]]
    schedule = rates(run, run["epochs"] * -(-len(x) // batch_size))
    method, settings = run["method"], run["settings"]
    recipe = recipe_of(run, schedule)
    # These two add the decay themselves.
    decay = 0 if method in ("gsm", "lc") else settings["weight_decay"]
    model = build_model(x.shape[1:], decay)
    optimizer, callbacks = None, []
    if recipe is not None:
        model = keras_bimp.wrap(model, rule=recipe.rule)
        optimizer, callbacks = recipe.optimizer, recipe.callbacks
    elif method == "bimp":
        model = keras_bimp.wrap(model)
        schedule = run["learning_rate"]
        callbacks = keras_bimp.callbacks(
            run["target_sparsity"],
            dense_epochs=settings["dense_epochs"],
            cycles=settings["cycles"],
            retraining="allr",
            allocation="global",
            verbose=0,
        )
    if optimizer is None:
        optimizer = keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True)
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # Compiling takes longer than an epoch.
    )
    history = model.fit(
        x,
        y,
        batch_size=batch_size,
        epochs=run["epochs"],
        callbacks=callbacks,
        verbose=0,
    ).history
    if method != "dense":
        model = keras_bimp.strip(model)
    found = {
        "validation": model.evaluate(*held_out, batch_size=1000, verbose=0)[1],
        "test": model.evaluate(*test, batch_size=1000, verbose=0)[1],
        "sparsity": keras_bimp.sparsity(model).prunable,
        "seconds": round(time.perf_counter() - begin, 1),
    }
    diverged = not np.isfinite(history["loss"][-1])
    return found | ({"diverged": True} if diverged else {})
