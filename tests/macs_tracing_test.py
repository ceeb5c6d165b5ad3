"""Counting leaves any model unchanged."""

import keras
import numpy as np
import pytest
from helpers import array
from helpers import compile_model
from helpers import data
from keras import layers
from macs_models import COUNTS
from macs_models import model_of
from macs_models import models

import keras_bimp
from keras_bimp.metrics import count_macs


def state(model):
    """Returns everything that tracing must not change."""
    attributes = {
        id(layer): {
            # Includes items of lists: nodes, losses.
            name: list(map(id, value)) if type(value) is list else id(value)
            for name, value in vars(layer).items()
        }
        for layer in model._flatten_layers()
    }
    variables = [
        *model.variables,
        *model.metrics_variables,
        *model.optimizer.variables,
        *(
            generator.state
            for layer in model._flatten_layers()
            for generator in layer._seed_generators
        ),
    ]
    return attributes, [array(variable).tobytes() for variable in variables]


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_counting_leaves_a_model_as_it_was():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activity_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.GaussianNoise(0.5),
            layers.Reshape((2, 4)),
            layers.GRU(3, dropout=0.5),
            layers.Dense(3),
        ]
    )
    compile_model(model)
    x, y = data()
    model.fit(x, y, verbose=0)
    model(x)
    assert len(model.losses) == 1
    before, train_function = state(model), model.train_function
    macs = count_macs(model)
    assert macs.dense == 6 * 8 + 2 * (4 + 3) * 3 * 3 + 3 * 3
    assert state(model) == before
    assert model.train_function is train_function
    model.fit(x, y, verbose=0)
    assert count_macs(model) == macs


class Failing(layers.Layer):
    def build(self, shape):
        self.dense = layers.Dense(3)
        self.dense.build(shape)

    def call(self, x):
        raise RuntimeError(f"not like this: {self.dense(x)}")

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:-1], 3))


def test_an_error_leaves_the_model_as_it_was():
    failing, other = Failing(), layers.Dense(2)
    model = model_of(lambda x: failing(other(x)), (4,))

    def call(x, training=None):
        return layers.Dense.call(other, x)

    other.call = call
    with pytest.raises(ValueError, match=r"(?s)`input_shape`.*not like this"):
        count_macs(model)
    for layer in model._flatten_layers():
        assert vars(layer).get("call") is (call if layer is other else None)


class Subclass(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = layers.Dense(3)
        self.second = layers.Dense(2)

    def call(self, x, training=False, context=None):
        x = self.second(self.first(x))
        return x if context is None else x + self.second(context)


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_subclassed_models():
    images = np.ones((4, 6), "float32")
    model = Subclass()
    model(images)
    macs = count_macs(model)
    assert macs.dense == 6 * 3 + 3 * 2
    ((path, reason),) = macs.unknown
    assert path == model.path
    assert "class" in reason
    assert count_macs(keras_bimp.wrap(model)) == macs
    # The call that built it had no `context`.
    shapes = {"x": (None, 6), "context": (None, 3)}
    assert count_macs(model, shapes).dense == 6 * 3 + 2 * (3 * 2)


@keras.saving.register_keras_serializable(package="keras_bimp_tests")
class TwoShapes(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)

    def build(self, a_shape, b_shape):
        self.dense.build(a_shape)

    def call(self, a, flag=True, b=None):
        return self.dense(a) + self.dense(b)


def test_a_subclass_that_is_built_from_two_shapes(tmp_path):
    model = TwoShapes()
    model(np.ones((2, 4)), b=np.ones((2, 4)))
    assert count_macs(model).dense == 2 * (4 * 3)
    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    assert count_macs(model).dense == 2 * (4 * 3)


class OfDict(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x["a"]) + self.dense(x["b"])


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_nested_inputs():
    dense = layers.Dense(2)

    def joined(a, b):
        return dense(layers.Concatenate()([a, b]))

    # Inputs named like arguments of `call`.
    a = keras.Input((None, 3), name="inputs")
    b = keras.Input((None, 4), name="mask")
    for inputs, shapes in (
        ([a, b], [(None, 5, 3), (None, 5, 4)]),
        ({"inputs": a, "mask": b}, {"mask": (1, 5, 4), "inputs": (1, 5, 3)}),
    ):
        model = keras.Model(inputs, joined(a, b))
        assert count_macs(model, shapes).dense == 7 * 2 * 5
    model = OfDict()
    model({"a": np.ones((2, 4)), "b": np.ones((2, 4))})
    assert count_macs(model).dense == 2 * (4 * 3)
    shapes = {"a": (None, 5, 4), "b": (None, 5, 4)}
    assert count_macs(model, shapes).dense == 2 * (4 * 3 * 5)


def test_nested_models_and_shared_layers():
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4), layers.Dense(4)], name="inner"
    )
    model = model_of(lambda x: inner(inner(inner(x))), (4,))
    macs = count_macs(model)
    assert macs.dense == 3 * (2 * 4 * 4)
    assert [x.dense for x in macs.layers.values()] == [3 * 4 * 4] * 2
    kernel = np.ones((4, 4))
    kernel[0] = 0
    inner.layers[0].kernel.assign(kernel)
    assert count_macs(model).nonzero == 3 * (4 * 4 + 3 * 4)


class Twins(keras.Model):
    def __init__(self):
        super().__init__()
        self.pair = [layers.Dense(3, name="a") for _ in range(2)]

    def call(self, x):
        return self.pair[0](self.pair[1](x))


def test_layers_of_one_path_are_told_apart():
    model = Twins()
    model(np.ones((2, 4)))
    macs = count_macs(model)
    path = f"{model.name}/a"
    assert {name: x.dense for name, x in macs.layers.items()} == {
        path: 4 * 3,
        f"{path} (2)": 3 * 3,
    }


@pytest.mark.parametrize("batch", [None, 1, 4])
def test_counts_are_for_one_example(batch):
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(batch, 5, 4)),
            layers.LSTM(3, return_sequences=True, stateful=batch is not None),
            layers.Dense(2),
        ]
    )
    count = 5 * (4 + 3) * 3 * 4 + 5 * 3 * 2
    assert count_macs(model).dense == count
    assert count_macs(model, (batch, 5, 4)).dense == count
    assert count_macs(keras_bimp.wrap(model)).dense == count


def test_counts_of_activations_are_for_one_example():
    for name in ("multi-head attention", "matmul", "dot", "attention"):
        _, shapes, count = COUNTS[name]
        shapes = [(4, *shape) for shape in shapes]
        assert count_macs(models()[name], shapes).dense == count


def test_sizes_that_are_not_known():
    model = model_of(layers.Conv2D(2, 3), (None, None, 3))
    with pytest.raises(
        ValueError, match=r"`input_shape`.*\(None, None, None, 3\)"
    ):
        count_macs(model)
    assert count_macs(model, (None, 8, 9, 3)).dense == 9 * 3 * 2 * 6 * 7
    assert count_macs(model, (4, 8, 8, 3)).dense == 9 * 3 * 2 * 6 * 6
    with pytest.raises(
        ValueError, match=r"`input_shape`.*\(None, 8, None, 3\)"
    ):
        count_macs(keras_bimp.wrap(model), (None, 8, None, 3))


def test_errors():
    with pytest.raises(TypeError, match=r"`model`.*keras\.Model.*Dense"):
        count_macs(layers.Dense(3))
    with pytest.raises(ValueError, match=r"`model`.*`keras\.Input`"):
        count_macs(keras.Sequential([layers.Dense(3)]))
    model = model_of(layers.Dense(3), (4,))
    with pytest.raises(ValueError, match=r"`input_shape`.*\(None, 5\)"):
        count_macs(model, (None, 5))
    with pytest.raises(ValueError, match=r"`input_shape`.*\[\(None, 4\), \("):
        count_macs(model, [(None, 4), (None, 4)])
    for wrong in ({"Dense": len}, {layers.Dense: 3}):
        with pytest.raises(TypeError, match="`rules`"):
            count_macs(model, rules=wrong)
    unseen = Subclass()
    unseen.built = True
    with pytest.raises(ValueError, match=r"`input_shape`.*Received: None"):
        count_macs(unseen)


# Unknown shapes.
