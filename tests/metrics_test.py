import keras
import numpy as np
import pytest
from helpers import dense_model
from keras import layers

import keras_bimp
from keras_bimp.metrics import sparsity


def test_wrapped_and_stripped_agree():
    model = keras_bimp.wrap(dense_model())
    keras_bimp.prune(model, 0.75)
    total = 48 + 8 + 4 * 8 + 24 + 3
    assert sparsity(model) == (54 / 72, 54 / total)
    assert sparsity(keras_bimp.strip(model)) == (54 / 72, 54 / total)


def test_a_shared_layer_counts_once_and_biases_never():
    inputs = keras.Input((4,))
    shared = layers.Dense(4, bias_initializer="zeros")
    model = keras.Model(inputs, shared(shared(inputs)))
    kernel = np.ones((4, 4))
    kernel[0] = 0
    kernel[1, 0] = -0.0
    shared.kernel.assign(kernel)
    assert sparsity(model) == (5 / 16, 5 / 20)


def test_filters():
    model = dense_model()
    model.layers[0].kernel.assign(np.zeros((6, 8)))
    assert sparsity(model, filters=model.layers[0].name + "$").prunable == 1.0
    assert sparsity(model).prunable == pytest.approx(48 / 72)


def test_nothing_prunable():
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization()])
    assert sparsity(model) == (0.0, 0.0)
