"""`granularity="unit"` in `fit`, in backups, and in the metrics."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from helpers import compile_model
from keras import layers
from units_models import assert_same
from units_models import prune
from units_models import transformer

import keras_bimp
from keras_bimp._src.backends import as_array


@pytest.mark.slow
@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_in_fit(capsys):
    model = compile_model(keras_bimp.wrap(transformer()), "adam")
    x = np.random.default_rng(0).normal(size=(16, 5, 8)).astype("float32")
    callbacks = keras_bimp.callbacks(
        0.5, dense_epochs=1, cycles=2, granularity="unit"
    )
    history = model.fit(
        x, np.ones((16, 5), int), epochs=3, callbacks=callbacks, verbose=0
    )
    assert history.history["sparsity"][-1] == 0.5
    told = capsys.readouterr().out
    assert "prunes units (8 heads, 32 units), by magnitude" in told
    assert "20 of 40 units left" in told
    pruned = keras_bimp.strip(model)
    small = keras_bimp.shrink(pruned)
    assert small.get_layer("attention0").num_heads == 2
    assert small.get_layer("inner1").units == 8
    assert_same(pruned, small)


@pytest.mark.slow
def test_resuming(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def fit(folder, *others):
        model = compile_model(keras_bimp.wrap(transformer(blocks=1)))
        callbacks = keras_bimp.callbacks(
            0.5,
            dense_epochs=1,
            cycles=2,
            granularity="unit",
            backup_dir=tmp_path / folder,
            verbose=0,
        )
        model.fit(
            np.random.default_rng(0).normal(size=(8, 5, 8)),
            np.ones((8, 5), int),
            epochs=3,
            shuffle=False,
            callbacks=[*callbacks, *others],
            verbose=0,
        )
        return model

    whole = fit("whole")
    with pytest.raises(KeyboardInterrupt):
        fit("parts", Stop())
    resumed = fit("parts")
    for one, other in zip(whole.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(as_array(one), as_array(other))


def test_a_pruning_goes_through_json():
    pruning, _ = prune(transformer(blocks=1))
    fields = json.loads(json.dumps(dataclasses.asdict(pruning)))
    assert keras_bimp.Pruning.of(fields) == pruning


def test_what_is_pruned_stays_pruned():
    wrapped = keras_bimp.wrap(transformer())
    keras_bimp.prune(wrapped, 0.5, granularity="unit")
    before = [as_array(mask) for mask in wrapped.wrapper.masks]
    pruning = keras_bimp.prune(wrapped, 0.75, granularity="unit")
    assert [n for n, _ in pruning.units.values()] == [1, 4, 1, 4]
    for old, mask in zip(before, wrapped.wrapper.masks, strict=True):
        assert not (as_array(mask) & ~old).any()


def test_select_ranks_units_over_their_kernels():
    # Columns of one kernel and rows of the next: the second unit is smallest.
    kernels = [
        np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]),
        np.array([[5.0], [1.0], [1.0]]),
    ]
    unit = np.arange(3)
    first, second = keras_bimp.select(
        kernels,
        1 / 3,
        granularity="unit",
        groups=[unit[None], [unit[:, None]]],
    )
    assert first.tolist() == [[True, False, True]] * 2
    assert second[:, 0].tolist() == [True, False, True]
    # Negative numbers are never pruned.
    first, second = keras_bimp.select(
        kernels,
        0.5,
        granularity="unit",
        groups=[np.array([0, -1, 2]), np.array([[0], [-1], [2]])],
    )
    assert first.tolist() == [[True, True, False]] * 2
    assert second[:, 0].tolist() == [True, True, False]


def test_select_without_groups_takes_the_outputs_of_each_kernel():
    kernels = [np.array([[3.0, 1.0], [3.0, 1.0]]), np.ones((1, 1, 1, 2))]
    masks = keras_bimp.select(
        kernels, 0.5, granularity="unit", allocation="uniform"
    )
    assert masks[0].tolist() == [[True, False]] * 2
    assert masks[1].reshape(-1).tolist() == [False, True]


def test_select_checks_groups():
    kernels = [np.ones((2, 3))]
    for groups in (
        [np.arange(2)],
        [np.ones(3)],
        [],
        [[np.ones((1, 2, 3), int)]],
    ):
        with pytest.raises(ValueError, match="broadcasts to it"):
            keras_bimp.select(kernels, 0.5, granularity="unit", groups=groups)
    with pytest.raises(ValueError, match="`groups` must be given"):
        keras_bimp.select(kernels, 0.5, granularity="unit")


@pytest.mark.slow
def test_sensitivity():
    model = compile_model(transformer(blocks=1))
    x = np.random.default_rng(0).normal(size=(8, 5, 8)).astype("float32")
    before = [as_array(v) for v in model.weights]
    found = keras_bimp.sensitivity(
        model,
        (x, np.zeros((8, 5), int)),
        sparsities=(0.0, 0.5),
        granularity="unit",
        verbose=0,
    )
    assert list(found.accuracies) == [
        "attention0/query/kernel",
        "inner0/kernel",
    ]
    for old, variable in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, as_array(variable))
    for first, _ in found.accuracies.values():
        assert first == found.baseline


def test_metrics_count_units_and_heads():
    model = transformer(blocks=1)
    full = {"heads of attention0": (4, 4), "units of inner0": (16, 16)}
    assert keras_bimp.metrics.units(model) == full
    wrapped = keras_bimp.wrap(model)
    half = {"heads of attention0": (2, 4), "units of inner0": (8, 16)}
    keras_bimp.prune(wrapped, 0.5, granularity="unit")
    assert keras_bimp.metrics.units(wrapped) == half
    pruned = keras_bimp.strip(wrapped)
    assert keras_bimp.metrics.units(pruned) == half
    small = keras_bimp.shrink(pruned)
    assert keras_bimp.metrics.units(small) == {
        "heads of attention0": (2, 2),
        "units of inner0": (8, 8),
    }


@pytest.mark.slow
def test_report_counts_units_and_heads():
    _, pruned = prune(transformer())
    found = keras_bimp.report(pruned, latency=False, input_shape=(1, 5, 8))
    (text,) = [v.text for v in found.verdicts if "removing" in v.target]
    assert "4 of 8 heads (50.0%) and 16 of 32 units (50.0%)" in text


def test_a_subclass_has_no_graph():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(4)

        def call(self, x):
            return self.dense(x)

    model = Model()
    model(np.zeros((1, 5), "float32"))
    with pytest.raises(ValueError, match="Functional or Sequential"):
        keras_bimp.prune(keras_bimp.wrap(model), 0.5, granularity="unit")
