"""One of several processes that train together on JAX, for processes_test.py.

Args: number of processes, index of this one, port of the first, output file.
One process alone trains without distribution: the others are compared with it.
"""

import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from helpers import compile_model
from helpers import data
from helpers import masked
from keras import layers

import keras_bimp
from keras_bimp._src import selection
from keras_bimp._src.backends import as_array
from keras_bimp._src.backends import is_spread
from keras_bimp._src.masking import wrap

COUNT, INDEX = int(sys.argv[1]), int(sys.argv[2])
BATCH = 16


def own_part(array):
    """Returns this process' part of each batch of 16."""
    batches = array.reshape(-1, COUNT, BATCH // COUNT, *array.shape[1:])
    return batches[:, INDEX].reshape(-1, *array.shape[1:])


def data_parallel():
    if COUNT == 1:
        return None
    return keras.distribution.DataParallel(auto_shard_dataset=False)


def model_parallel():
    """Each process has half of each kernel, and all of the data."""
    if COUNT == 1:
        return None
    mesh = keras.distribution.DeviceMesh(
        (1, COUNT), ("batch", "model"), keras.distribution.list_devices()
    )
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*dense.*kernel"] = (None, "model")
    return keras.distribution.ModelParallel(
        layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False
    )


def build_model(optimizer=None):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            # A bias here would get only rounding errors as its gradient.
            layers.Dense(8, use_bias=False, name="dense"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(4, name="dense_out"),
        ]
    )
    return compile_model(wrap(model), optimizer)


def named(name, variables):
    return {f"{name} {i}": as_array(v) for i, v in enumerate(variables)}


def train(spread, optimizer=None, **kwargs):
    """Returns losses, weights, masks and what the schedule saw."""
    model = build_model(optimizer)
    if spread and COUNT > 1:
        assert all(is_spread(k.variable) for k in masked(model).kernels)
        assert all(map(is_spread, masked(model).masks))
    x, y = data()
    share = COUNT
    if spread:
        share = 1
    else:
        x, y = own_part(x), own_part(y)
    (callback,) = keras_bimp.callbacks(
        0.7, dense_epochs=2, cycles=2, verbose=0, **kwargs
    )
    history = model.fit(
        x, y, batch_size=BATCH // share, epochs=6, shuffle=False, verbose=0,
        callbacks=[callback],
    ).history  # fmt: skip
    layer = masked(model)
    for kernel, mask in zip(layer.kernels, layer.masks, strict=True):
        assert (as_array(kernel.variable)[~as_array(mask)] == 0).all()
    result = named("weight", model.weights)
    result["counts"] = list(callback.prunings[-1].counts.values())
    for name in ("loss", "learning_rate", "norm_drop", "discount", "sparsity"):
        result[name] = history[name]
    return result


def resumed(folder):
    """Does the same as `train`, but stops and resumes in between."""

    class Kill(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 3:
                raise KeyboardInterrupt

    x, y = data()
    for others in ([Kill()], []):
        model = build_model()
        ours = keras_bimp.callbacks(
            0.7, dense_epochs=2, cycles=2, verbose=0, backup_dir=folder
        )
        try:
            history = model.fit(
                x, y, batch_size=BATCH, epochs=6, shuffle=False, verbose=0,
                callbacks=[*ours, *others],
            ).history  # fmt: skip
        except KeyboardInterrupt:
            continue
    assert model.history.epoch == list(range(6))
    result = named("weight", model.weights)
    result["loss"] = history["loss"]
    return result


def prune(sparsity=0.6, **kwargs):
    model = build_model()
    keras_bimp.prune(model, sparsity, **kwargs)
    return named("mask", masked(model).masks)


def gathers_nothing():
    """Checks that global selection does not gather a kernel anywhere."""

    def refuse(*args, **kwargs):
        raise AssertionError("a kernel was gathered")

    model = build_model()
    patched = (
        selection.Shards.array,
        keras_bimp._src.retraining.targets.as_array,
    )
    selection.Shards.array = keras_bimp._src.retraining.targets.as_array = (
        refuse
    )
    try:
        keras_bimp.prune(model, 0.6)
        keras_bimp.prune(model, 0.65, allocation="erk")
    finally:
        selection.Shards.array, keras_bimp._src.retraining.targets.as_array = (
            patched
        )
    assert keras_bimp.sparsity(model).prunable == 52 / 80
    return {}


def what_disagreement_does():
    model = build_model()
    before = [as_array(v) for v in model.weights]
    by_process = {
        "criterion": lambda kernel: np.random.default_rng(INDEX).random(
            kernel.shape
        )
    }
    try:
        keras_bimp.prune(model, 0.5, **by_process)
    except RuntimeError as error:
        said = str(error)
    after = [as_array(v) for v in model.weights]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    return {"said": said}


def what_nan_does():
    model = build_model()
    kernel = masked(model).kernels[0].variable
    here = np.zeros(kernel.shape, bool)
    here[2, 7] = True
    kernel.assign(keras.ops.where(here, np.nan, kernel.value))
    try:
        keras_bimp.prune(model, 0.5)
    except ValueError as error:
        return {"said": str(error)}


def main():
    if COUNT > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        keras.distribution.initialize(f"localhost:{sys.argv[3]}", COUNT, INDEX)
    results = {}
    keras.distribution.set_distribution(data_parallel())
    results["data"] = train(False)
    results["muon"] = train(False, keras.optimizers.Muon(0.01))
    if COUNT > 1:
        results["disagree"] = what_disagreement_does()
    keras.distribution.set_distribution(model_parallel())
    results["model"] = train(True)
    results["resumed"] = resumed(
        pathlib.Path(sys.argv[4]).with_name(f"backup_{COUNT}")
    )
    results["rewound"] = train(True, retraining="wr")
    results["lamp"] = prune(allocation="lamp")
    results["uniform"] = prune(allocation="uniform")
    results["n_m"] = prune(0.5, granularity="2:4")
    if COUNT > 1:
        gathers_nothing()
        results["nan"] = what_nan_does()
    keras.distribution.set_distribution(None)
    flat = {
        f"{run}: {name}": value
        for run, result in results.items()
        for name, value in result.items()
    }
    np.savez(sys.argv[4], **flat)


if __name__ == "__main__":
    main()
