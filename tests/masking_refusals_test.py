"""What `wrap`, `strip` and loading refuse, and what they advise."""

import re

import keras
import numpy as np
import pytest
from helpers import dense_model
from helpers import masked
from keras import layers

import keras_bimp


def test_loading_refuses_a_lambda_inside(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3),
            layers.Lambda(lambda x: x, output_shape=(3,)),
        ]
    )
    keras_bimp.wrap(model).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="Lambda"):
        keras.models.load_model(tmp_path / "model.keras")


class OwnTrainStep(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


class OwnFit(keras.Model):
    def fit(self, *args, **kwargs):
        return super().fit(*args, **kwargs)


def quantized():
    model = dense_model()
    model.layers[0].quantize("int8")
    return model


def twice():
    return keras_bimp.wrap(dense_model())


def functional(cls):
    x = keras.Input((4,))
    return cls(x, layers.Dense(2)(x))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: keras.Sequential([layers.Dense(2)]),
            ValueError,
            r"`model`.*`keras\.Input`",
        ),
        (lambda: layers.Dense(2), TypeError, r"`model`.*`keras_bimp\.Masked\("),
        (lambda: "model", TypeError, "`model`"),
        (twice, ValueError, "`model`.*`Masked`"),
        (
            lambda: keras.Sequential([keras.Input((4,)), layers.ReLU()]),
            ValueError,
            "`model`.*'kernel'",
        ),
        (
            lambda: OwnTrainStep([keras.Input((4,)), layers.Dense(2)]),
            ValueError,
            "train_step",
        ),
        (lambda: functional(OwnFit), ValueError, "`fit"),
        (quantized, ValueError, "prune.*quantize.*dense.*'int8'"),
    ],
)
def test_wrap_refuses(make, error, text):
    with pytest.raises(error, match=text):
        keras_bimp.wrap(make())


class OwnStepOfLayers(keras.Model):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(x)

    def train_step(self, data):
        return super().train_step(data)


def test_a_refusal_names_ways_that_work():
    model = functional(OwnFit)
    for refused in (keras_bimp.wrap, lambda model: prune_half(model)):
        with pytest.raises(ValueError, match=r"Masked\(layer\)") as error:
            refused(model)
        assert "keras_bimp.wrap(model)" not in str(error.value)
        (way,) = re.findall(r"`(keras_bimp\.wrap\(.*\))`,", str(error.value))
        ours = eval(way, {**globals(), "model": model})
        assert sum(prune_half(ours).counts.values()) == 4
        keras_bimp.strip(ours)
    model = OwnStepOfLayers(layers.Dense(2))
    model(np.ones((1, 4), "float32"))
    with pytest.raises(ValueError, match=r"Masked\(layer\)") as error:
        prune_half(model)
    assert "inputs" not in str(error.value)
    model = OwnStepOfLayers(layers.Dense(2))
    model.inner = keras_bimp.Masked(model.inner)
    model(np.ones((1, 4), "float32"))
    with pytest.raises(ValueError, match=r"several layers.*held before"):
        prune_half(model)
    model = OwnStepOfLayers(keras_bimp.Masked(layers.Dense(2)))
    model(np.ones((1, 4), "float32"))
    assert sum(prune_half(model).counts.values()) == 4


def prune_half(model):
    return keras_bimp.prune(model, 0.5, optimizer=[])


def test_a_functional_model_of_a_plain_subclass_is_fine():
    class Named(keras.Model):
        pass

    assert masked(keras_bimp.wrap(functional(Named))).kernels


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"rule": "hard"}, TypeError, "`rule`"),
        ({"filters": 3}, TypeError, "`filters`"),
        ({"filters": "nowhere"}, ValueError, "filters='nowhere'"),
        ({"initial_masks": "zeros"}, ValueError, "'nonzero'"),
    ],
)
def test_wrap_bad_arguments(arguments, error, text):
    with pytest.raises(error, match=text):
        keras_bimp.wrap(dense_model(), **arguments)


@pytest.mark.parametrize("make", [dense_model, lambda: "model"])
def test_strip_refuses_what_is_not_wrapped(make):
    with pytest.raises(ValueError, match=r"keras_bimp\.wrap"):
        keras_bimp.strip(make())
