"""Metrics passed to `compile` as objects, not by name."""

import keras
import numpy as np
import pytest
from helpers import array
from helpers import data
from helpers import dense_model
from helpers import fit
from keras import layers
from keras import ops

import keras_bimp

pytestmark = [pytest.mark.every_backend, pytest.mark.slow]


class Unsaved(keras.Metric):
    """The fraction of outputs above a limit that is not in the config."""

    def __init__(self, limit, name="above"):
        super().__init__(name=name)
        self.limit = limit
        self.total = self.add_weight(initializer="zeros", name="total")
        self.count = self.add_weight(initializer="zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        above = ops.cast(y_pred > self.limit, "float32")
        self.total.assign_add(ops.sum(above))
        self.count.assign_add(ops.sum(ops.ones_like(above)))

    def result(self):
        return self.total / self.count


class Forgetful(Unsaved):
    """Its config can be loaded, but lacks the limit."""

    def __init__(self, limit=0.0, name="above", dtype=None):
        super().__init__(limit, name)


def above(limit):
    return keras.metrics.MeanMetricWrapper(
        lambda y_true, y_pred: ops.cast(y_pred > limit, "float32"),
        name="above",
    )


def share_above(y_pred):
    return float(np.mean(y_pred > 0.2))


def accuracy(y_pred):
    return float(np.mean(y_pred.argmax(1) == unlike()[1]))


METRICS = {
    "keras": (
        lambda: keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
        accuracy,
    ),
    "no config": (lambda: Unsaved(0.2), share_above),
    "config that forgets": (lambda: Forgetful(0.2), share_above),
    "lambda": (lambda: above(0.2), share_above),
}


def unlike():
    """Generates data on which the model is far worse than in training."""
    x, y = data(seed=5)
    return x, (y + 1) % 3


def compiled(model, make, **kwargs):
    model.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **(kwargs or {"metrics": [make()]}),
    )
    return model


def first(model, **kwargs):
    x, y = unlike()
    logs = model.evaluate(x, y, verbose=0, return_dict=True, **kwargs)
    return {name: value for name, value in logs.items() if name != "loss"}


def predicted(model):
    return model.predict(unlike()[0], verbose=0)


def assert_only_value(logs, expected):
    (value,) = logs.values()
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_after_strip_and_again_after_more_training(name):
    make, truth = METRICS[name]
    model = compiled(keras_bimp.wrap(dense_model()), make)
    for target in (0.5, 0.7):
        fit(model, 2, keras_bimp.callbacks(target, dense_epochs=1, verbose=0))
        pruned = keras_bimp.strip(model)
        assert_only_value(first(pruned), truth(predicted(pruned)))
        assert_only_value(first(model), truth(predicted(model)))


@pytest.mark.parametrize("name", METRICS)
def test_after_wrap_of_a_trained_model(name):
    make, truth = METRICS[name]
    model = compiled(dense_model(), make)
    fit(model, 2)
    wrapped = keras_bimp.wrap(model)
    assert_only_value(first(model), truth(predicted(model)))
    # The first of `wrapped`, after one of `model` with the same objects.
    assert_only_value(first(wrapped), truth(predicted(wrapped)))


def test_wrap_hands_the_very_objects_over():
    metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    model = compiled(dense_model(), lambda: metric)
    wrapped = keras_bimp.wrap(model)
    logs = fit(wrapped, 1).history
    np.testing.assert_allclose(float(metric.result()), logs["accuracy"][0])


@pytest.mark.parametrize("name", METRICS)
def test_in_a_report(name):
    make, truth = METRICS[name]
    model = compiled(keras_bimp.wrap(dense_model()), make)
    fit(model, 2, keras_bimp.callbacks(0.5, dense_epochs=1, verbose=0))
    pruned = keras_bimp.strip(model)
    for _ in range(2):
        report = keras_bimp.report(
            pruned, data=unlike(), latency=False, verbose=0
        )
        (value, _) = next(
            pair for key, pair in report.metrics.items() if key != "loss"
        )
        np.testing.assert_allclose(value, truth(predicted(pruned)), rtol=1e-5)


def test_in_a_report_of_two_models_that_share_one_metric():
    metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    dense = compiled(dense_model(), lambda: metric)
    fit(dense, 2)
    pruned = compiled(keras.models.clone_model(dense), lambda: metric)
    pruned.set_weights([0.5 * w for w in dense.get_weights()])
    before = [array(v) for v in metric.variables]
    report = keras_bimp.report(
        pruned, dense=dense, data=unlike(), latency=False, verbose=0
    )
    np.testing.assert_allclose(
        report.metrics["accuracy"],
        (accuracy(predicted(pruned)), accuracy(predicted(dense))),
        rtol=1e-5,
    )
    for old, variable in zip(before, metric.variables, strict=True):
        np.testing.assert_array_equal(old, array(variable))


@pytest.mark.parametrize("name", METRICS)
def test_after_shrink(name):
    make, truth = METRICS[name]
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(16, activation="relu"),
            layers.Dense(3),
        ]
    )
    kernel = array(model.layers[0].kernel)
    kernel[:, 8:] = 0.0
    model.layers[0].kernel.assign(kernel)
    compiled(model, make)
    x, y = data()
    model.evaluate(x, y, verbose=0)
    small = keras_bimp.shrink(model)
    assert small.layers[0].units == 8
    assert_only_value(first(small), truth(predicted(small)))


@pytest.mark.parametrize("nested", ["by name", "in lists"])
def test_of_several_outputs_and_weighted(nested):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    outputs = [
        layers.Dense(3, name=name)(layers.Dense(4)(inputs)) for name in "ab"
    ]
    model = keras_bimp.wrap(keras.Model(inputs, outputs))

    def metrics():
        pair = [above(0.2), Unsaved(0.2, name="unsaved")], [above(0.2)]
        return (
            dict(zip("ab", pair, strict=True))
            if nested == "by name"
            else [*pair]
        )

    model.compile(
        keras.optimizers.SGD(0.1),
        ["mse", "mse"],
        metrics=metrics(),
        weighted_metrics=metrics(),
    )
    x, _ = data()
    y = [np.zeros((64, 3))] * 2
    model.fit(x, y, verbose=0)
    pruned = keras_bimp.strip(model)
    test, _ = unlike()
    logs = pruned.evaluate(test, y, verbose=0, return_dict=True)
    for name, y_pred in zip("ab", pruned.predict(test, verbose=0), strict=True):
        found = [
            v
            for key, v in logs.items()
            if key.startswith(f"{name}_") and not key.endswith("loss")
        ]
        assert len(found) == (4 if name == "a" else 2)
        np.testing.assert_allclose(found, share_above(y_pred), rtol=1e-5)


def test_a_copy_keeps_what_a_metric_does_not_reset():
    class Limited(keras.metrics.Mean):
        def __init__(self, name="above", dtype=None):
            super().__init__(name=name, dtype=dtype)
            self.limit = self.add_weight(initializer="zeros", name="limit")

        def update_state(self, y_true, y_pred, sample_weight=None):
            super().update_state(ops.cast(y_pred > self.limit, "float32"))

        def reset_state(self):
            self.total.assign(0.0)
            self.count.assign(0.0)

    metric = Limited()
    metric.limit.assign(0.2)
    model = compiled(keras_bimp.wrap(dense_model()), lambda: metric)
    fit(model, 1)
    pruned = keras_bimp.strip(model)
    assert_only_value(first(pruned), share_above(predicted(pruned)))


def test_a_metric_that_makes_its_variables_later():
    class Late(keras.Metric):
        def __init__(self):
            super().__init__(name="above")
            self.mean = None

        def update_state(self, y_true, y_pred, sample_weight=None):
            if self.mean is None:
                self.mean = keras.metrics.Mean()
            self.mean.update_state(ops.cast(y_pred > 0.2, "float32"))

        def result(self):
            return self.mean.result()

        def reset_state(self):
            self.mean.reset_state()

    model = compiled(dense_model(), Late)
    wrapped = keras_bimp.wrap(model)
    assert_only_value(first(wrapped), share_above(predicted(wrapped)))


def test_a_metric_inside_the_model_counts_from_nothing():
    if keras.backend.backend() == "jax":
        pytest.skip("Keras cannot update a layer's metric in its call on JAX")

    class Tracked(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.mean = keras.metrics.Mean(name="mean")

        def call(self, x):
            self.mean.update_state(ops.mean(x))
            return x

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), Tracked(), layers.Dense(3)])
    wrapped = compiled(keras_bimp.wrap(model), None, metrics=None)
    fit(wrapped, 1)
    pruned = keras_bimp.strip(wrapped)
    x, _ = unlike()
    np.testing.assert_allclose(
        [first(pruned)["mean"], first(wrapped)["mean"]],
        x.mean(),
        rtol=1e-4,
        atol=1e-6,
    )
