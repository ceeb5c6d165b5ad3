"""Executes a run: trains, prunes and measures according to its settings."""

import dataclasses
import functools
import math
import pathlib
import shutil
import time

import data
import keras
import networks
from measuring import Prunings
from measuring import Speed
from measuring import versions
from rates import dense_rates

import keras_bimp


def execute(
    run, *, data_dir=None, dense_dir, backup_dir=None, jit_compile="auto"
):
    """Executes a run.

    Args:
        run: A `Run`.
        data_dir: Where TensorFlow Datasets keeps data.
        dense_dir: Folder of dense networks, which runs of `dense` write and
            runs of `imp` start from.
        backup_dir: Where to back up each epoch, to resume after a kill.
            Defaults to nowhere.
        jit_compile: As in `Model.compile`.

    Returns:
        A JSON-compatible dict: scores on the test and validation data, whether
        it diverged, its cost, the effects of its prunings, and the history of
        the training.

    Raises:
        ValueError: Before training, if a run of `imp` has no dense network
            to start from.
    """
    begin = time.perf_counter()
    keras.utils.set_random_seed(run.seed)
    load = functools.partial(
        data.load,
        run.task,
        data_dir=data_dir,
        batch_size=run.batch_size,
        subset=run.subset or None,
        seed=run.seed,
    )
    task = load(augment=run.augment)
    prunings = Prunings(task)
    # Counts the last batch of an epoch as full.
    speed = Speed(int(task.train.cardinality()) * run.batch_size)
    start = start_of(run, task, pathlib.Path(dense_dir), load)
    start.model.compile(
        start.optimizer,
        task.loss,
        metrics=task.metrics(),
        jit_compile=jit_compile,
    )
    backup = [keras_bimp.Backup(backup_dir)] if backup_dir else []
    history = keras_bimp.fit(
        start.model,
        task.train,
        epochs=start.epochs,
        shuffle=False,  # The data set shuffles.
        validation_data=task.validation,
        callbacks=[
            keras.callbacks.TerminateOnNaN(),
            *prunings.around(start.callbacks),
            *backup,
            speed,
        ],
        verbose=0,
    ).history
    diverged = not all(map(math.isfinite, history["loss"]))
    if not diverged:
        start.keep(start.model)
    model = start.model
    if start.wrapped:
        model = keras_bimp.strip(model)
    macs = keras_bimp.metrics.count_macs(model)
    sparsity = keras_bimp.sparsity(model)
    return {
        "measure": task.measure,
        "test": task.score(model, task.test),
        "validation": task.score(model, task.validation),
        "diverged": diverged,
        "sparsity": sparsity.prunable,
        "total_sparsity": sparsity.total,
        "multiply_adds": macs.dense,
        "theoretical_speedup": macs.dense / macs.nonzero,
        "examples_per_second": speed.median(),
        "phases": prunings.phases(),
        "prunings": prunings.found(),
        "history": {
            name: [as_json(value) for value in values]
            for name, values in history.items()
        },
        "versions": versions(),
        "seconds": round(time.perf_counter() - begin, 1),
    }


def as_json(value):
    """Rounds to six digits; returns `None` for NaN, which JSON lacks."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


@dataclasses.dataclass
class Start:
    """A model and its arguments of `compile` and `fit`.

    Attributes:
        wrapped: Whether to strip it at the end.
        keep: Called with the model after `fit`.
    """

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    callbacks: list
    epochs: int
    wrapped: bool = True
    keep: object = lambda model: None


def start_of(run, task, dense_dir, load):
    match run.method:
        case "dense":
            return _dense(run, task, dense_dir)
        case "bimp":
            return _bimp(run, task, load)
        case "imp":
            return _imp(run, task, dense_dir, load)
        case _:
            return _pruning_stable(run, task)


def _build(run, task, weight_decay):
    return getattr(networks, run.network)(
        **task.network, weight_decay=weight_decay, **run.network_options
    )


def _optimizer(run, learning_rate):
    if run.optimizer == "adam":
        return keras.optimizers.Adam(learning_rate)
    return keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True)


def _rates(run, task, interval=None):
    """Returns the learning rates of dense training as a schedule."""
    per_epoch = int(task.train.cardinality())
    if interval:
        interval *= per_epoch
    return keras_bimp.schedules.Recorded(
        dense_rates(
            run.schedule, run.learning_rate, run.epochs * per_epoch, interval
        )
    )


def folder_of_dense(run, dense_dir):
    """Returns the folder of the dense network that a run starts from."""
    return pathlib.Path(dense_dir, run.dense().digest)


def _dense(run, task, dense_dir):
    folder = folder_of_dense(run, dense_dir)
    # Renamed when complete, so that a kill leaves all files or none.
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    kept = [int(epoch) for epoch in run.keep_epochs.split(",") if epoch]

    def keep_epoch(epoch, logs):
        if epoch + 1 in kept:
            model.save(unfinished / f"epoch_{epoch + 1}.keras")

    def keep(model):
        # Not `save`, which drops the weight decay of a KerasHub network.
        model.save_weights(unfinished / "model.weights.h5")
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)

    model = _build(run, task, run.weight_decay)
    return Start(
        model,
        _optimizer(run, _rates(run, task)),
        [
            keras_bimp.RecordLearningRate(unfinished / "rates.npz"),
            keras.callbacks.LambdaCallback(on_epoch_end=keep_epoch),
        ],
        run.epochs,
        wrapped=False,
        keep=keep,
    )


def _pruning(run, load):
    """Returns the arguments of `keras_bimp.callbacks` for a run."""
    retraining = run.retraining
    if run.retrain_warmup:
        retraining = functools.partial(
            getattr(keras_bimp.schedules, retraining.capitalize()),
            warmup=run.retrain_warmup,
        )
    return {
        "cycles": run.cycles,
        "retraining": retraining,
        "allocation": run.allocation,
        "criterion": run.criterion,
        "granularity": run.granularity,
        "on_collapse": run.on_collapse,
        # It evaluates on training examples without augmentation.
        "data": load(augment=False).train
        if run.retraining == "accallr"
        else None,
        "verbose": 0,
    }


def _bimp(run, task, load):
    return Start(
        keras_bimp.wrap(_build(run, task, run.weight_decay)),
        _optimizer(run, run.learning_rate),
        keras_bimp.callbacks(
            run.target_sparsity,
            dense_epochs=None
            if run.dense_epochs == "auto"
            else run.dense_epochs,
            **_pruning(run, load),
        ),
        run.epochs,
    )


def _imp(run, task, dense_dir, load):
    folder = folder_of_dense(run, dense_dir)
    if not folder.exists():
        raise ValueError(
            "A run of `imp` starts from the network of a dense run, which is "
            f"missing: it was not run, or diverged. Looked for: {folder}"
        )
    rewind_to = None
    epochs = run.retrain_epochs
    if run.cycles != "auto":
        epochs *= run.cycles
    elif run.retraining == "wr":
        raise ValueError(
            "`cycles` must be a number for retraining='wr', which rewinds by "
            "the epochs of a cycle. Received: cycles='auto'"
        )
    if run.retraining == "wr":
        rewind_to = folder / f"epoch_{run.epochs - run.retrain_epochs}.keras"
    model = _build(run, task, run.weight_decay)
    model.load_weights(folder / "model.weights.h5")
    return Start(
        keras_bimp.wrap(model),
        _optimizer(run, run.retrain_learning_rate or run.learning_rate),
        keras_bimp.callbacks(
            run.target_sparsity,
            dense_epochs=0,
            original=keras_bimp.RecordLearningRate(folder / "rates.npz"),
            original_epochs=run.epochs,
            rewind_to=rewind_to,
            **_pruning(run, load),
        ),
        epochs,
    )


def _pruning_stable(run, task):
    schedule = _rates(run, task, run.settings.get("interval"))
    settings, decay = dict(run.settings), run.weight_decay
    match run.method:
        case "gsm":
            settings |= {"learning_rate": schedule, "nesterov": decay > 0}
            settings["weight_decay"] = decay
        case "lc" | "str":
            settings["weight_decay"] = decay
        case "gmp":
            settings["allocation"] = run.allocation
    make = getattr(keras_bimp.baselines, run.method)
    if run.method not in ("cs", "str", "dst"):
        settings["target_sparsity"] = run.target_sparsity
    recipe = make(**settings, verbose=0)
    # These two add the decay themselves.
    decay = 0.0 if run.method in ("gsm", "lc") else decay
    return Start(
        keras_bimp.wrap(_build(run, task, decay), rule=recipe.rule),
        recipe.optimizer or _optimizer(run, schedule),
        recipe.callbacks,
        run.epochs,
    )
