"""Criteria that need gradients, and bad arguments."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import array
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import kernels_and_masks
from helpers import masked
from helpers import wrapped
from keras import layers
from keras import ops

import keras_bimp


class Penalised(layers.Layer):
    def call(self, x):
        self.add_loss(100 * ops.mean(x**2))
        return x


def test_gradients_are_those_of_losses_inside_too():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3), Penalised()])
    x, _ = data()
    # Only the penalty: the loss of equal outputs is 0.
    y = model.predict(x, verbose=0)
    model = keras_bimp.wrap(model)
    model.compile("sgd", "mse")
    kernels = [k.variable for k in masked(model).kernels]
    samples = keras_bimp._src.retraining.Samples((x, y))
    (found,) = keras_bimp._src.retraining.gradients(model, kernels, samples)
    np.testing.assert_allclose(
        found, 200 * x.T @ y / y.size, rtol=1e-3, atol=1e-3
    )


class OldLoss(keras.Model):
    """Overrides `compute_loss` as before Keras 3.3."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return ops.mean((y - y_pred) ** 2)


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_saliency_with_a_loss_of_ones_own():
    inputs = keras.Input((6,))
    outputs = keras_bimp.Masked(layers.Dense(3))(inputs)
    model = OldLoss(inputs, outputs)
    model.compile("sgd")
    x, _ = data()
    y = np.ones((len(x), 3), "float32")
    pruning = keras_bimp.prune(model, 0.5, criterion="saliency", data=(x, y))
    assert list(pruning.counts.values()) == [9]


@pytest.mark.parametrize(
    "bad",
    [
        lambda x, y: x,
        lambda x, y: "abc",
        lambda x, y: (x,),
        lambda x, y: (x, None),
        lambda x, y: (x, y[:10]),
        lambda x, y: (x.tolist(), y.tolist()),
        lambda x, y: iter([(x, y)]),
        lambda x, y: tf.data.Dataset.from_tensors((x, y)).repeat(),
    ],
)
def test_bad_data(bad):
    with pytest.raises(ValueError, match="`data`"):
        keras_bimp.prune(
            wrapped(), 0.5, criterion="saliency", data=bad(*data())
        )


def test_saliency_of_batches():
    masks = []
    for given in (
        data(),
        tf.data.Dataset.from_tensor_slices(data()).batch(24),
    ):
        model = wrapped()
        keras_bimp.prune(model, 0.5, criterion="saliency", data=given)
        masks.append([mask for _, mask in kernels_and_masks(model)])
    for one, other in zip(*masks, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.every_backend
def test_saliency_goes_by_the_gradients_of_the_data():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model = keras_bimp.wrap(model)
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).standard_normal((300, 4)).astype("float32")
    y = x @ np.array([[5.0], [-5.0], [0.0], [0.0]], "float32")
    (kernel,) = masked(model).kernels
    kernel.variable.assign([[0.1], [-0.2], [0.4], [0.3]])
    # The gradient of the mean of (x w - y)^2.
    w = np.array([[0.1], [-0.2], [0.4], [0.3]])
    slope = 2 * x.T @ (x @ w - y) / len(x)
    saliency = np.abs(w * slope)[:, 0]
    assert set(saliency.argsort()[2:]) == {0, 1}
    keras_bimp.prune(model, 0.5, criterion="saliency", data=(x, y))
    ((after, _),) = kernels_and_masks(model)
    np.testing.assert_allclose(after[:, 0], [0.1, -0.2, 0, 0], rtol=1e-6)


def test_gradients_change_nothing_and_are_those_of_the_whole():
    model = wrapped(model=dense_model(kernel_regularizer="l2"))
    x, y = data(200)
    fit(model, 1)
    before = [np.array(w) for w in model.get_weights()]
    variables = [k.variable for k in masked(model).kernels]
    samples = keras_bimp._src.retraining.Samples((x, y))
    found = keras_bimp._src.retraining.gradients(model, variables, samples)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    # By finite differences of the loss in `evaluate`.
    for variable, gradient in zip(variables, found, strict=True):
        value = np.array(ops.convert_to_numpy(variable.value))
        losses = []
        for step in (0.01, -0.01):
            changed = value.copy()
            changed[1, 2] += step
            variable.assign(changed)
            losses.append(model.evaluate(x, y, verbose=0)[0])
        variable.assign(value)
        np.testing.assert_allclose(
            gradient[1, 2], (losses[0] - losses[1]) / 0.02, rtol=0.05, atol=2e-3
        )


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_gradients_in_half_precision():
    found = []
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        try:
            model = wrapped()
        finally:
            keras.config.set_dtype_policy("float32")
        kernels = [k.variable for k in masked(model).kernels]
        samples = keras_bimp._src.retraining.Samples(data())
        found.append(
            keras_bimp._src.retraining.gradients(model, kernels, samples)
        )
    for single, half in zip(*found, strict=True):
        # Some ReLUs are on in one and off in the other.
        assert np.median(np.abs(half - single)) < 1e-3
        assert np.median(np.abs(single)) > 0.01


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_saliency_in_fit(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = wrapped()
    finally:
        keras.config.set_dtype_policy("float32")
    callbacks = keras_bimp.callbacks(
        0.75,
        dense_epochs=1,
        cycles=2,
        criterion="saliency",
        data=data(),
        data_fraction=0.5,
        verbose=0,
    )
    history = fit(model, 3, callbacks).history
    assert history["sparsity"] == pytest.approx([0, 0.5, 0.75])


def test_half_precision_variables_are_ranked():
    keras.config.set_dtype_policy("bfloat16")
    try:
        model = wrapped()
    finally:
        keras.config.set_dtype_policy("float32")
    pruning = keras_bimp.prune(model, 0.5, on_collapse="ignore")
    assert sum(pruning.counts.values()) == 36
    for kernel, mask in kernels_and_masks(model):
        magnitudes = np.abs(kernel.astype("float32"))
        assert (magnitudes[mask] > 0).all()
        assert not magnitudes[~mask].any()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"criterion": "saliency"}, ValueError, "`data`.*'saliency'"),
        ({"granularity": (2, 4)}, ValueError, "NM"),
        ({"granularity": "2:4"}, ValueError, r"`target_sparsity`.*0\.5"),
        (
            {"granularity": "2:4", "cycles": 2},
            ValueError,
            r"`target_sparsity`.*0\.5",
        ),
        (
            {"granularity": "2:4", "cycles": 2, "target_sparsity": 0.5},
            ValueError,
            "`cycles`.*cycles=2",
        ),
        (
            {"granularity": "2:4", "allocation": "erk"},
            ValueError,
            "`allocation`.*'erk'",
        ),
        (
            {"criterion": "random", "allocation": "lamp"},
            ValueError,
            "`allocation`.*='lamp'.*'uniform'",
        ),
        (
            {"max_layer_sparsity": {"(": 0.5}},
            ValueError,
            r"`max_layer_sparsity`.*'\('",
        ),
        (
            {"max_layer_sparsity": {"dense": 2}},
            ValueError,
            r"`max_layer_sparsity`.*\[0, 1\)",
        ),
        ({"layer_sparsity": 0.3}, TypeError, "`layer_sparsity`"),
        ({"filters": 3}, TypeError, "`filters`"),
        ({"exclude": "("}, ValueError, r"`exclude`.*'\('"),
        ({"data_fraction": 3}, ValueError, "`data_fraction`"),
    ],
)
def test_callbacks_refuse(arguments, error, text):
    arguments = {"target_sparsity": 0.9, "dense_epochs": 1, **arguments}
    with pytest.raises(error, match=text):
        keras_bimp.callbacks(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"granularity": "filter"}, ValueError, "`granularity`.*/kernel"),
        ({"filters": "nothing"}, ValueError, "`filters`.*/kernel"),
        ({"filters": 3}, TypeError, "`filters`"),
        ({"exclude": [3]}, TypeError, "`exclude`"),
        ({"exclude": "dense"}, ValueError, "`exclude`.*/kernel"),
        (
            {"max_layer_sparsity": {"convolution": 0.5}},
            ValueError,
            "`max_layer_sparsity`.*'convolution'.*'sequential",
        ),
        (
            {"max_layer_sparsity": 0.5},
            ValueError,
            "`max_layer_sparsity`.* 18 .* 36 ",
        ),
        ({"allocation": lambda s, f: [1]}, ValueError, "`allocation`"),
        ({"criterion": np.ravel}, ValueError, "`criterion`"),
    ],
)
def test_fit_and_prune_refuse_before_anything_changed(arguments, error, text):
    model = wrapped()
    before = [array(v) for v in model.weights]
    with pytest.raises(error, match=text):
        keras_bimp.prune(model, 0.75, **arguments)
    with pytest.raises(error, match=text):
        fit(
            model,
            2,
            keras_bimp.callbacks(0.75, dense_epochs=1, verbose=0, **arguments),
        )
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_data_without_use_is_refused():
    with pytest.raises(ValueError, match=r"`data`.*criterion='magnitude'"):
        keras_bimp.prune(wrapped(), 0.5, data=data())


def test_a_nan_is_named():
    model = wrapped()
    kernel = masked(model).kernels[1]
    value = np.ones(kernel.variable.shape)
    value[3, 1] = np.nan
    kernel.variable.assign(value)
    with pytest.raises(ValueError, match=r"nan.*/kernel.*\(3, 1"):
        keras_bimp.prune(model, 0.5, allocation="uniform")
