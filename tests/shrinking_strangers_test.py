"""Difficult models for `shrink`: masks, vocabularies, noise, states."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_bimp
from keras_bimp._src.backends import as_array
from keras_bimp._src.model_record import Progress
from keras_bimp._src.model_record import record_of
from keras_bimp._src.trial_runs import check_lengths


def half_gone(model, seed=0):
    """Sets biases, and zeros the second half of hidden layers' outputs."""
    rng = np.random.default_rng(seed)
    *hidden, _ = [
        layer
        for layer in model._flatten_layers()
        if type(layer) in (layers.Dense, layers.Conv1D, layers.Conv2D)
    ]
    for layer in hidden:
        kernel = np.array(as_array(layer.kernel))
        kernel[..., kernel.shape[-1] // 2 :] = 0
        layer.kernel.assign(kernel)
        layer.bias.assign(rng.normal(size=layer.bias.shape))
    return model


def shrunk(model, inputs):
    """Shrinks a model, and checks that it is smaller with the same outputs."""
    small = keras_bimp.shrink(half_gone(model), align=1)
    assert small.count_params() < model.count_params()
    expected, found = (
        ops.convert_to_numpy(m(inputs, training=False)) for m in (model, small)
    )
    np.testing.assert_allclose(
        found, expected, rtol=1e-5, atol=1e-5 * abs(expected).max()
    )
    return small


def test_a_mask_is_passed_on():
    model = keras.Sequential(
        [
            keras.Input((7,), dtype="int32"),
            layers.Embedding(10, 8, mask_zero=True),
            layers.GlobalAveragePooling1D(),
            layers.Dense(16),
            layers.Dense(3),
        ]
    )
    shrunk(model, np.array([[1, 2, 3, 0, 0, 0, 0], [4, 5, 6, 7, 8, 9, 1]]))


@pytest.mark.filterwarnings("ignore:Layer .*was passed an input with a mask")
def test_coupled_filters_are_found_behind_a_mask():
    inputs = keras.Input((7, 5))
    x = layers.Dense(16)(layers.Masking()(inputs))
    x = layers.Conv1D(16, 3)(layers.BatchNormalization()(x))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    wrapped = keras_bimp.wrap(model)
    wrapped.compile("sgd", "mse")
    keras_bimp.prune(wrapped, 0.5, granularity="filter", allocation="coupled")
    keras_bimp.strip(wrapped)
    shrunk(model, np.random.default_rng(0).normal(size=(2, 7, 5)))


@pytest.mark.parametrize("kind", ["StringLookup", "TextVectorization"])
def test_vocabularies_go_along(kind):
    lookup = getattr(layers, kind)()
    lookup.adapt(np.array([["a"], ["b"], ["c"]]))
    inputs = keras.Input((1,), dtype="string")
    x = layers.Embedding(lookup.vocabulary_size(), 8)(lookup(inputs))
    x = layers.GlobalAveragePooling1D()(layers.Conv1D(16, 1)(x))
    model = keras.Model(inputs, layers.Dense(3)(x))
    shrunk(model, ops.convert_to_tensor(np.array([["b"], ["c"]])))


def nested(given):
    """Builds a nested model that is called with its structure or another."""
    inner_inputs = [keras.Input((8,), name="z"), keras.Input((8,), name="a")]
    z, a = inner_inputs
    inner = keras.Model(
        inner_inputs,
        layers.Concatenate()([layers.Dense(8)(z), layers.ReLU()(a)]),
    )
    inputs = keras.Input((4,))
    z, a = layers.Dense(8)(inputs), layers.Dense(8)(inputs)
    x = inner({"z": z, "a": a} if given == "dict" else [z, a])
    if given == "twice":
        x = layers.Add()([x, inner([a, z], training=True)])
    return keras.Model(inputs, layers.Dense(3)(layers.Dense(16)(x)))


@pytest.mark.parametrize("given", ["list", "dict", "twice"])
def test_a_model_inside_is_called_in_its_own_way_or_another(given):
    shrunk(nested(given), np.random.default_rng(0).normal(size=(5, 4)))


def test_a_maximum_may_begin_with_a_number():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3)(layers.Conv2D(16, 3)(inputs))
    model = keras.Model(
        inputs, layers.Dense(3)(ops.max(x, axis=(1, 2), initial=0.0))
    )
    shrunk(model, np.random.default_rng(0).normal(size=(2, 8, 8, 3)))


def test_outputs_that_are_no_numbers_hide_no_others(monkeypatch):
    inputs = keras.Input((8,))
    x = layers.Dense(16, activation="relu")(inputs)
    model = half_gone(keras.Model(inputs, ops.sqrt(layers.Dense(6)(x))))
    rebuild = keras_bimp.shrink.__globals__["rebuild"]

    def wrong(*args):
        small = rebuild(*args)
        small.layers[-2].bias.assign(small.layers[-2].bias + 0.1)
        return small

    monkeypatch.setitem(keras_bimp.shrink.__globals__, "rebuild", wrong)
    with pytest.raises(RuntimeError, match=r"`model`.*`get_config`"):
        keras_bimp.shrink(model)


def test_states_and_statistics_stay():
    inputs = keras.Input(batch_shape=(2, 5, 4))
    x = layers.Conv1D(16, 1)(layers.Conv1D(16, 1)(inputs))
    lstm = layers.LSTM(6, stateful=True)
    model = half_gone(keras.Model(inputs, layers.Dense(3)(lstm(x))))
    model(np.ones((2, 5, 4)))
    before = [np.array(as_array(state)) for state in lstm.states]
    assert all(state.any() for state in before)
    keras_bimp.shrink(model)
    for state, value in zip(lstm.states, before, strict=True):
        np.testing.assert_array_equal(as_array(state), value)


def test_what_a_training_came_to_goes_along(tmp_path):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(3)(layers.Dense(16)(inputs)))
    record_of(half_gone(model)).progress = Progress(4, 12, 10, 100, 0.8)
    small = keras_bimp.shrink(model)
    with pytest.raises(
        ValueError, match=r"`model`.* 4 .*12 .*check_sparsity=False"
    ):
        keras_bimp.export(small, tmp_path / "1")


def test_axes_of_unknown_length_may_have_to_be_long():
    model = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            *[layers.Conv2D(16, 7, strides=2) for _ in range(3)],
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    shrunk(model, np.random.default_rng(0).normal(size=(1, 70, 64, 3)))


@pytest.mark.parametrize(("length", "fits"), [(32, False), (64, True)])
def test_lengths_are_too_short_where_a_layer_has_no_output(length, fits):
    model = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            *[layers.Conv2D(16, 7, strides=2) for _ in range(3)],
            layers.GlobalAveragePooling2D(),
        ]
    )
    images = np.zeros((1, length, length, 3), "float32")
    if fits:
        check_lengths(model, images)
    else:
        with pytest.raises(ValueError, match="zero or negative"):
            check_lengths(model, images)


class Noise(layers.Layer):
    def call(self, x):
        return x + keras.random.normal(ops.shape(x))


def test_a_model_with_noise_is_not_compared():
    inputs = keras.Input((8,))
    x = Noise()(layers.Dense(16)(layers.Dense(16)(inputs)))
    model = half_gone(keras.Model(inputs, layers.Dense(3)(x)))
    with pytest.warns(UserWarning, match="`model`.*random"):
        small = keras_bimp.shrink(model)
    assert small.count_params() < model.count_params()


def my_activation(x):
    return ops.sin(x)


def test_arrays_and_functions_in_a_layer():
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(
                16,
                bias_initializer=keras.initializers.Constant(np.arange(16.0)),
            ),
            layers.Dense(16, activation=my_activation),
            layers.Dense(3),
        ]
    )
    shrunk(model, np.random.default_rng(0).normal(size=(5, 8)))
