"""What `callbacks` and `prune` refuse."""

import keras
import numpy as np
import pytest
from helpers import array
from helpers import compile_model
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import masked
from helpers import wrapped
from helpers import zeros
from keras import layers

import keras_bimp


def test_data_of_unknown_length():
    x, y = data()

    def batches():
        while True:
            yield x[:16], y[:16]

    model = wrapped()
    with pytest.raises(ValueError, match="`steps_per_epoch`"):
        model.fit(
            ((x[:16], y[:16]) for _ in range(8)),
            epochs=2,
            verbose=0,
            shuffle=False,
            callbacks=keras_bimp.callbacks(0.5, dense_epochs=1),
        )
    ours = keras_bimp.callbacks(
        0.5, dense_epochs=1, steps_per_epoch=3, verbose=0
    )
    model.fit(
        batches(),
        epochs=2,
        steps_per_epoch=3,
        verbose=0,
        shuffle=False,
        callbacks=ours,
    )
    assert zeros(model) == 36


def test_steps_per_epoch_must_be_those_of_fit():
    ours = keras_bimp.callbacks(0.5, dense_epochs=1, steps_per_epoch=400)
    with pytest.raises(
        ValueError, match=r"`steps_per_epoch`.*400.*`fit`.* 4\b"
    ):
        fit(wrapped(), 2, ours)


class BuiltByName(keras.Model):
    """Has no `build`, so Keras marks it as built and its layers are not."""

    def __init__(self):
        super().__init__()
        self.dense = keras_bimp.Masked(layers.Dense(2))

    def call(self, x):
        return self.dense(x)


def test_a_model_that_is_built_by_name_only_is_to_be_called():
    model = BuiltByName()
    with pytest.warns(UserWarning, match="build"):
        model.build((None, 4))
    with pytest.raises(ValueError, match=r"Call it .*`model\(x\[:1\]\)`"):
        keras_bimp.prune(model, 0.5)
    model(np.ones((1, 4)))
    assert keras_bimp.prune(model, 0.5).counts == {
        model.dense.kernels[0].path: 4
    }


def nan_weight():
    model = wrapped()
    kernel = masked(model).kernels[1].variable
    value = np.array(array(kernel))
    value[2, 1] = np.nan
    kernel.assign(value)
    return model


@pytest.mark.parametrize(
    ("make", "epochs", "arguments", "error", "text"),
    [
        (
            lambda: compile_model(dense_model()),
            4,
            {},
            ValueError,
            r"`keras_bimp\.Masked\(",
        ),
        (
            lambda: wrapped(keras.optimizers.SGD(0.0)),
            4,
            {},
            ValueError,
            "learning rate.* 0",
        ),
        (nan_weight, 4, {}, ValueError, r"nan.*kernel.*\(2, 1\)"),
        (wrapped, 2, {}, ValueError, "`dense_epochs`"),
        (wrapped, 4, {"cycles": 3}, ValueError, "`cycles`"),
        (
            wrapped,
            4,
            {"target_sparsity": 0.999},
            ValueError,
            r"sparsity.*\b72 weights",
        ),
        (
            wrapped,
            4,
            {"target_sparsity": 0.9},
            ValueError,
            "`on_collapse=.* 7 .*72 .* 11 ",
        ),
        (
            wrapped,
            4,
            {"dense_epochs": 0, "retraining": "ft"},
            ValueError,
            "`original`",
        ),
    ],
)
def test_fit_refuses_before_anything_changed(
    make, epochs, arguments, error, text
):
    model = make()
    before = [array(v) for v in model.variables]
    rate = model.optimizer._learning_rate
    ours = keras_bimp.callbacks(
        **{"target_sparsity": 0.5, "dense_epochs": 2, **arguments}
    )
    with pytest.raises(error, match=text):
        fit(model, epochs, ours)
    assert model.optimizer._learning_rate is rate
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, array(new))


def test_a_single_weight_cannot_be_pruned_away():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    model = keras_bimp.wrap(model)
    with pytest.raises(ValueError, match=r"sparsity.*\b1 weight"):
        keras_bimp.prune(model, 0.95)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"target_sparsity": 1.0}, ValueError, "`target_sparsity`"),
        ({"target_sparsity": -0.5}, ValueError, "`target_sparsity`"),
        ({"target_sparsity": float("nan")}, ValueError, "`target_sparsity`"),
        ({"target_sparsity": "0.9"}, TypeError, "`target_sparsity`"),
        ({"target_sparsity": True}, TypeError, "`target_sparsity`"),
        ({"dense_epochs": -1}, ValueError, "`dense_epochs`"),
        ({"dense_epochs": 1.5}, TypeError, "`dense_epochs`"),
        ({"cycles": 0}, ValueError, "`cycles`"),
        ({"retraining": "best"}, ValueError, "'allr'"),
        ({"allocation": "best"}, ValueError, "'global'"),
        ({"on_collapse": "best"}, ValueError, "'protect'"),
        ({"original_epochs": 0}, ValueError, "`original_epochs`"),
        ({"steps_per_epoch": 0}, ValueError, "`steps_per_epoch`"),
    ],
)
def test_callbacks_bad_arguments(arguments, error, text):
    with pytest.raises(error, match=text):
        keras_bimp.callbacks(
            **{"target_sparsity": 0.5, "dense_epochs": 1, **arguments}
        )


@pytest.mark.parametrize(
    "arguments",
    [
        {"allocation": "globl"},
        {"criterion": "size"},
        {"granularity": "filter"},
        {"on_collapse": "protct"},
    ],
)
def test_prune_bad_names(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        keras_bimp.prune(wrapped(), 0.5, **arguments)


def test_prune_refuses_an_optimizer_of_another_model():
    other = wrapped()
    fit(other, 1)
    model = wrapped()
    before = [array(v) for v in model.weights]
    with pytest.raises(ValueError, match="`optimizer`"):
        keras_bimp.prune(model, 0.5, optimizer=other.optimizer)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("target", [1.0, -0.1, float("nan"), "0.5", True])
def test_prune_bad_target(target):
    with pytest.raises((TypeError, ValueError), match="`target_sparsity`"):
        keras_bimp.prune(wrapped(), target)


@pytest.mark.parametrize("make", [dense_model, lambda: "model"])
def test_prune_refuses_what_is_not_wrapped(make):
    with pytest.raises(ValueError, match=r"keras_bimp\.wrap\("):
        keras_bimp.prune(make(), 0.5)
