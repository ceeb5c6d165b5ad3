import keras
import numpy as np
import pytest
from helpers import array
from helpers import data
from helpers import wrapped
from keras import layers

import keras_bimp


def statistics(model):
    norm = model.get_layer("norm")
    return array(norm.moving_mean), array(norm.moving_variance)


def model_with_dropout():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8),
            layers.BatchNormalization(name="norm"),
            layers.Dropout(0.5, seed=1),
            layers.Dense(3),
        ]
    )


@pytest.mark.every_backend
@pytest.mark.parametrize("wrap", [True, False])
def test_statistics_are_those_of_the_data(wrap):
    model = model_with_dropout()
    if wrap:
        model = keras_bimp.wrap(model)
        keras_bimp.prune(model, 0.5)
    before = [array(v) for v in model.variables]
    momentum = model.get_layer("norm").momentum
    x, y = data()
    batches = [(x[:40], y[:40]), (x[40:], y[40:])]
    assert keras_bimp.recalibrate_batch_norm(model, batches) == 1
    after = [(v.path, array(v)) for v in model.variables]
    hidden = model.get_layer("norm")
    # Its inputs: the outputs of the (masked) dense layer before it.
    plain = keras_bimp.strip(model) if wrap else model
    first = keras.Model(plain.inputs, plain.layers[0].output)
    parts = [first.predict(part, verbose=0) for part, _ in batches]
    mean, variance = statistics(plain)
    weights = [40 / 64, 24 / 64]
    np.testing.assert_allclose(
        mean,
        np.average([p.mean(0) for p in parts], axis=0, weights=weights),
        rtol=1e-4,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        variance,
        np.average([p.var(0) for p in parts], axis=0, weights=weights),
        rtol=1e-4,
    )
    assert hidden.momentum == momentum
    assert len(after) == len(before)
    for old, (path, new) in zip(before, after, strict=True):
        if "moving" not in path:
            np.testing.assert_array_equal(old, new, err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize("broken", [5.0, np.nan])
def test_it_mends_statistics_that_do_not_fit(broken):
    x, y = data(512)
    model = wrapped(model=model_with_dropout())
    model.fit(x, y, epochs=20, verbose=0)
    trained = model.evaluate(x, y, verbose=0)[1]
    norm = model.get_layer("norm")
    norm.moving_mean.assign(norm.moving_mean + broken)
    assert not model.evaluate(x, y, verbose=0)[1] > trained - 0.1
    keras_bimp.recalibrate_batch_norm(model, x)
    assert model.evaluate(x, y, verbose=0)[1] > trained - 0.05


def test_arrays_are_taken_apart_and_labels_left_alone():
    x, y = data(300)
    results = []
    for batches in (x, (x, y), [x[:128], x[128:256], x[256:]]):
        model = model_with_dropout()
        keras_bimp.recalibrate_batch_norm(model, batches)
        results.append(statistics(model))
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])
    model = model_with_dropout()
    keras_bimp.recalibrate_batch_norm(model, ((x, x * 100)), steps=1)
    first = model_with_dropout()
    keras_bimp.recalibrate_batch_norm(first, x[:128])
    np.testing.assert_array_equal(statistics(model), statistics(first))
    with pytest.raises(ValueError, match="`steps`"):
        keras_bimp.recalibrate_batch_norm(model, x, steps=0)


def test_a_dataset_and_frozen_layers():
    import tensorflow as tf

    x, y = data()
    model = model_with_dropout()
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    keras_bimp.recalibrate_batch_norm(model, dataset)
    first = statistics(model)
    assert not np.allclose(first[0], 0)
    model.get_layer("norm").trainable = False
    with pytest.raises(ValueError, match="`BatchNormalization`"):
        keras_bimp.recalibrate_batch_norm(model, dataset)


def test_nothing_changes_where_it_fails():
    model = model_with_dropout()
    before = statistics(model)
    with pytest.raises(ValueError, match=r"`data`.*\[\]"):
        keras_bimp.recalibrate_batch_norm(model, [])

    def failing():
        yield data()
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        keras_bimp.recalibrate_batch_norm(model, failing())
    for old, new in zip(before, statistics(model), strict=True):
        np.testing.assert_array_equal(old, new)
    assert model.get_layer("norm").momentum == 0.99


def test_prune_leaves_the_statistics_alone():
    model = keras_bimp.wrap(model_with_dropout())
    norm = model.get_layer("norm")
    before = array(norm.moving_mean)
    keras_bimp.prune(model, 0.5)
    np.testing.assert_array_equal(array(norm.moving_mean), before)
