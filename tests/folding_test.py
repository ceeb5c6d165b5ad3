"""SavedModels with batch normalization folded into layers."""

import concurrent.futures
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_bimp
from keras_bimp._src.exporting.folding import folded

KINDS = [
    layers.Conv1D(6, 3, padding="same"),
    layers.Conv1DTranspose(6, 3, strides=2, padding="same"),
    layers.DepthwiseConv1D(3, depth_multiplier=2),
    layers.SeparableConv1D(6, 3, depth_multiplier=2, use_bias=False),
    layers.Dense(6, use_bias=False),
    layers.Conv2D(6, 3, strides=2, groups=2, use_bias=False),
    layers.Conv2DTranspose(6, 2, use_bias=False),
    layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
    layers.SeparableConv2D(6, 3),
    layers.Conv3D(6, 2),
    layers.Conv3DTranspose(6, 2, data_format="channels_last"),
    layers.Dense(6),
]
RANKS = [1] * 5 + [2] * 4 + [3] * 3


def with_any_weights(model):
    rng = np.random.default_rng(0)
    for variable in model.weights:
        # Variances are positive.
        values = rng.uniform(0.2, 1.5, variable.shape)
        if "variance" not in variable.path:
            values *= rng.choice([-1, 1], variable.shape)
        if keras.backend.is_float_dtype(variable.dtype):
            variable.assign(values)
    return model


def run(model, path, **kwargs):
    """Returns outputs of a SavedModel, the expected ones, and variables."""
    rng = np.random.default_rng(1)
    inputs = [
        rng.standard_normal((3, *x.shape[1:])).astype("float32")
        for x in model.inputs
    ]
    inputs = inputs if len(inputs) > 1 else inputs[0]
    expected = model(inputs, training=False)
    keras_bimp.export(model, path, verify=False, **kwargs)
    loaded = tf.saved_model.load(str(path))
    found = loaded.serve(inputs)
    return (
        [np.array(y) for y in tf.nest.flatten(found)],
        [np.array(y) for y in tf.nest.flatten(expected)],
        loaded.signatures["serving_default"].variables,
    )


def assert_close(found, expected, tolerance=1e-5):
    for y, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(
            y, other, rtol=0, atol=tolerance * np.abs(other).max()
        )


def test_layers_of_all_kinds_do_it_along_the_way(tmp_path):
    given = [keras.Input((8,) * rank + (4,)) for rank in (1, 2, 3)]
    outputs = []
    for i, (kind, rank) in enumerate(zip(KINDS, RANKS, strict=True)):
        layer = type(kind).from_config(kind.get_config())
        x = layer(given[rank - 1])
        norm = layers.BatchNormalization(scale=i % 3 != 0, center=i % 3 != 1)
        outputs.append(keras.ops.relu(norm(x)))
    model = with_any_weights(keras.Model(given, outputs))
    found, expected, variables = run(model, tmp_path / "1")
    assert_close(found, expected)
    # Each has a kernel and a bias; separable ones have two kernels.
    assert len(variables) == 2 * len(KINDS) + 2
    normal = layers.BatchNormalization
    assert sum(isinstance(each, normal) for each in model.layers) == len(KINDS)


def test_in_models_inside_and_sequences(tmp_path):
    inside = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            layers.Conv2D(4, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    )
    x = keras.Input((6, 6, 4))
    # Called twice: the nested model does not change.
    model = with_any_weights(keras.Model(x, inside(inside(x))))
    found, expected, variables = run(model, tmp_path / "1")
    assert_close(found, expected)
    assert len(variables) == 2
    found, expected, variables = run(inside, tmp_path / "2")
    assert_close(found, expected)
    assert len(variables) == 2


class Own(layers.Layer):
    """Calls a layer that the graph also calls."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, x):
        return self.inner(x)


def conv(**kwargs):
    return layers.Conv2D(4, 1, **kwargs)


def normal(**kwargs):
    return layers.BatchNormalization(**kwargs)


def called_twice(x):
    layer = conv()
    return normal()(layer(x)), layer(x)


def read_twice(x):
    y = conv()(x)
    return normal()(y) + y


def an_output(x):
    y = conv()(x)
    return normal()(y), y


def normalized_twice(x):
    norm = normal()
    return norm(conv()(x)), norm(x)


def an_activation(x):
    return normal()(conv(activation="relu")(x))


def of_another_axis(x):
    return normal(axis=1)(conv()(x))


def in_half(x):
    return normal()(conv(dtype="mixed_bfloat16")(x))


def in_training(x):
    return normal()(conv()(x), training=True)


def in_training_inside(x):
    y = keras.Input(x.shape[1:])
    inside = keras.Model(y, normal()(conv()(y)))
    return inside(x, training=True)


def called_by_another(x):
    layer = conv()
    return Own(layer)(normal()(layer(x)))


def called_by_a_function(x):
    layer = conv()
    return layers.Lambda(lambda y: layer(y))(normal()(layer(x)))


def called_by_an_operation(x):
    layer = conv()
    y = normal()(layer(x))
    return keras.ops.vectorized_map(lambda one: layer(one[None])[0], y)


def in_a_model_of_ones_own_call(x):
    y = keras.Input(x.shape[1:])
    inside = keras.Model(y, normal()(conv()(y)))
    call = inside.call
    inside.call = lambda y, training=None, mask=None: -call(y)
    return inside(x)


def of_an_input(x):
    return normal()(x)


@pytest.mark.parametrize(
    "make",
    [
        called_twice,
        read_twice,
        an_output,
        normalized_twice,
        an_activation,
        of_another_axis,
        in_half,
        in_training,
        in_training_inside,
        called_by_another,
        called_by_a_function,
        called_by_an_operation,
        in_a_model_of_ones_own_call,
        of_an_input,
    ],
)
def test_where_it_cannot_be_all_stays(make, tmp_path):
    x = keras.Input((4, 4, 4))
    model = with_any_weights(keras.Model(x, make(x)))
    found, expected, variables = run(model, tmp_path / "1")
    assert_close(found, expected, 0.1 if make is in_half else 1e-5)
    assert len(variables) == len(model.weights)


def pair():
    x = keras.Input((4, 4, 4))
    return with_any_weights(keras.Model(x, normal()(conv()(x))))


@pytest.mark.parametrize(("mean", "left"), [(10, 2), (1000, 6)])
def test_means_far_off_stay(mean, left, tmp_path):
    # They are as large as the sum that they are subtracted from, so that both
    # are rounded.
    model = pair()
    model.layers[-1].moving_mean.assign([mean, -1, 0, 1])
    *_, variables = run(model, tmp_path / "1")
    assert len(variables) == left


def nothing(shape, dtype=None):
    return keras.ops.zeros(shape, dtype)


def test_what_a_config_cannot_hold_is_no_hindrance(tmp_path):
    x = keras.Input((4, 4, 4))
    layer = conv(kernel_initializer=functools.partial(nothing))
    model = with_any_weights(keras.Model(x, normal()(layer(x))))
    found, expected, variables = run(model, tmp_path / "1")
    assert_close(found, expected)
    assert len(variables) == 2


def test_other_threads_see_nothing_of_it():
    model = pair()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 4, 4, 4)).astype("float32")
    model.compile("sgd", "mse")
    expected = model(x, training=True).numpy()
    with folded(model), concurrent.futures.ThreadPoolExecutor(1) as other:
        found = other.submit(model, x, training=True).result().numpy()
        other.submit(model.train_on_batch, x, x).result()
    np.testing.assert_array_equal(found, expected)


def test_signatures_may_train(tmp_path):
    model = pair()
    x = np.random.default_rng(0).standard_normal((5, 4, 4, 4)).astype("float32")
    path = keras_bimp.export(
        model,
        tmp_path / "1",
        signatures={"of_batch": lambda x: model(x, training=True)},
        verify=False,
    )
    function = tf.saved_model.load(str(path)).signatures["of_batch"]
    (name,) = function.structured_input_signature[1]
    (found,) = function(**{name: tf.constant(x)}).values()
    beta = keras.ops.convert_to_numpy(model.layers[-1].beta)
    np.testing.assert_allclose(
        found.numpy().mean((0, 1, 2)), beta, rtol=0, atol=1e-5
    )


def test_the_model_is_left_as_it_was(tmp_path):
    model = pair()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 4, 4, 4)).astype("float32")
    before = [v.numpy() for v in model.weights]
    expected = model(x).numpy()
    keras_bimp.export(model, tmp_path / "1", verify=False)
    with folded(model):
        assert (model(x).numpy() != expected).any()  # It rounds elsewhere.
    np.testing.assert_array_equal(model(x).numpy(), expected)
    for variable, array in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), array)
    beta = model.layers[-1].beta.numpy()
    mean = model(x, training=True).numpy().mean((0, 1, 2))
    np.testing.assert_allclose(mean, beta, rtol=0, atol=1e-5)
    with pytest.raises(ZeroDivisionError), folded(model):
        1 / 0  # noqa: B018
    assert not any("call" in vars(layer) for layer in model.layers)


def test_weights_that_would_not_be_finite_stay(tmp_path):
    model = pair()
    layer, norm = model.layers[1:]
    norm.moving_mean.assign(layer.bias)
    norm.moving_variance.assign([1e-30] * 4)
    norm.epsilon = 0.0
    norm.gamma.assign([1e30] * 4)
    *_, variables = run(model, tmp_path / "1")
    assert len(variables) == len(model.weights)
