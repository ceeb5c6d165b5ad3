"""`shrink`: shared layers, nested models, what trains on, and errors."""

import keras
import numpy as np
import pytest
from keras import layers
from shrinking_helpers import GONE
from shrinking_helpers import assert_same
from shrinking_helpers import assert_stays
from shrinking_helpers import build
from shrinking_helpers import conv
from shrinking_helpers import head
from shrinking_helpers import prune
from shrinking_helpers import randomize
from shrinking_helpers import shrunk_shapes

import keras_bimp
from keras_bimp._src.backends import as_array


def test_shared_layers():
    first, shared = conv(3, padding="same"), conv(8, 1, name="shared")
    last = conv(4, 1, use_bias=False, name="last")

    def body(x):
        return layers.Add()([last(shared(x)), last(shared(first(x)))])

    assert shrunk_shapes(build(body, shared))["shared"] == (1, 1, 3, 5)


def test_shared_layer_of_two_constants_keeps_them():
    one, other, shared = conv(), conv(), conv(4, 1)
    model = build(
        lambda x: layers.Add()([shared(one(x)), shared(other(x))]), one, other
    )
    assert_stays(model)


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_nested_models(kind):
    first = conv(name="first")
    inner_inputs = keras.Input((4, 4, 8))
    inner_conv = conv(name="inner_conv", padding="same")
    if kind == "functional":
        inner = keras.Model(inner_inputs, inner_conv(inner_inputs), name="in")
    else:
        inner = keras.Sequential([inner_inputs, inner_conv], name="in")
    second = conv(name="second")
    model = build(lambda x: head(second(inner(first(x)))), first, inner_conv)
    first.bias.assign(np.zeros(8))
    shrunk = keras_bimp.shrink(model, align=1)
    assert_same(model, shrunk)
    nested = shrunk.get_layer("in")
    assert type(nested) is type(inner)
    assert nested.input_shape == (None, 4, 4, 5)
    assert nested.get_layer("inner_conv").filters == 5


def test_attention_heads():
    attention = layers.MultiHeadAttention(4, 2, name="attention")
    model = build(lambda x: layers.Dense(2)(attention(x, x)), shape=(5, 6))
    values = as_array(attention.value_dense.kernel)
    values[:, 1] = 0
    attention.value_dense.kernel.assign(values)
    outputs = as_array(attention.output_dense.kernel)
    outputs[3] = 0
    attention.output_dense.kernel.assign(outputs)
    shrunk = keras_bimp.shrink(model)
    assert_same(model, shrunk)
    assert shrunk.get_layer("attention").num_heads == 2


def test_a_layer_of_ones_own_keeps_what_it_reads():
    class Reversed(layers.Layer):
        def call(self, x):
            return keras.ops.flip(x, axis=-1)

    one, other = conv(name="one"), conv(name="other")
    model = build(lambda x: head(Reversed()(other(one(x)))), one, other)
    shapes = shrunk_shapes(model)
    assert shapes["one"][-1] == 5
    assert shapes["other"][-1] == 8


def test_a_lambda_is_kept():
    first, second = conv(name="first"), conv()
    twice = layers.Lambda(lambda x: 2 * x)
    model = build(lambda x: head(twice(second(first(x)))), first, second)
    assert shrunk_shapes(model)["first"][-1] == 5


def test_operations_that_reduce_places():
    first = conv(name="first")
    model = build(
        lambda x: layers.Dense(2)(keras.ops.mean(first(x), (1, 2))), first
    )
    assert shrunk_shapes(model)["first"][-1] == 5
    model = build(
        lambda x: layers.Dense(2)(keras.ops.max(first(x), (1, 3))), first
    )
    with pytest.raises(ValueError, match=r"granularity='unit'.*max.*channels"):
        keras_bimp.shrink(model, align=1)


def test_half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        first = conv(padding="same", name="first")
        model = build(lambda x: head(conv(4)(first(x))), first)
    finally:
        keras.config.set_dtype_policy("float32")
    shrunk = keras_bimp.shrink(model, align=1)
    assert shrunk.get_layer("first").filters == 5
    assert shrunk.get_layer("first").dtype_policy.name == "mixed_float16"


def test_a_call_in_training_is_kept():
    first, norm = conv(), layers.BatchNormalization()
    model = build(lambda x: head(norm(first(x), training=True)), first)
    with pytest.raises(ValueError, match="training=True"):
        keras_bimp.shrink(model, align=1)


def test_unread_filters_go():
    first, second = conv(name="first"), conv(4, name="second")
    model = build(lambda x: second(layers.ReLU()(first(x))))
    kernel = as_array(second.kernel)
    kernel[:, :, GONE] = 0
    second.kernel.assign(kernel)
    assert shrunk_shapes(model)["first"] == (3, 3, 3, 5)


@pytest.mark.parametrize(("align", "left"), [(1, 5), (2, 6), (3, 6)])
def test_align(align, left):
    first = conv(name="first")
    model = build(lambda x: head(first(x)), first)
    assert shrunk_shapes(model, align=align)["first"][-1] == left


def test_align_keeps_no_more_than_there_are():
    first = conv()
    model = build(lambda x: head(first(x)), first)
    with pytest.raises(ValueError, match=r"`model`.*granularity='unit'"):
        keras_bimp.shrink(model, align=16)


def test_a_layer_of_which_all_is_constant_keeps_one_filter():
    first = conv(name="first")
    model = build(lambda x: head(first(x)), first, gone=range(8))
    assert shrunk_shapes(model)["first"][-1] == 1


def test_the_result_is_a_plain_model_that_trains_and_is_saved(tmp_path):
    first = conv(padding="same", name="first")
    model = build(lambda x: head(conv(4)(layers.ReLU()(first(x)))), first)
    model.compile("adam", "mse", metrics=["mae"])
    before = model.get_weights()
    shrunk = keras_bimp.shrink(model, align=1)
    x = np.random.default_rng(0).normal(size=(8, 6, 6, 3)).astype("float32")
    y = np.zeros((8, 2))
    expected = model.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(
        shrunk.evaluate(x, y, verbose=0), expected, rtol=1e-5
    )
    shrunk.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(model, loaded)
    assert "keras_bimp" not in loaded.to_json()
    shrunk.compile("adam", "mse")
    shrunk.fit(x, y, verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_several_inputs_by_name():
    one, other = conv(name="one"), conv(name="other")
    inputs = {
        "a": keras.Input((6, 6, 3), name="a"),
        "b": keras.Input((6, 6, 2), name="b"),
    }
    x = layers.Concatenate()([one(inputs["a"]), other(inputs["b"])])
    model = keras.Model(inputs, {"x": head(x), "y": conv(2)(x)})
    randomize(model)
    prune(one)
    assert shrunk_shapes(model)["one"][-1] == 5


def test_what_was_frozen_stays_frozen():
    first = conv(name="first")
    model = build(lambda x: head(first(x)), first)
    first.trainable = False
    shrunk = keras_bimp.shrink(model, align=1)
    assert not shrunk.get_layer("first").trainable
    assert shrunk.get_layer("head").trainable


def test_errors_of_the_model():
    first = conv()
    model = build(lambda x: head(first(x)), first)
    with pytest.raises(TypeError, match=r"`model`.*keras\.Model"):
        keras_bimp.shrink(first)
    with pytest.raises(ValueError, match=r"`model`.*keras_bimp\.strip\("):
        keras_bimp.shrink(keras_bimp.wrap(model))
    with pytest.raises(ValueError, match=r"`model`.*built.*=<"):
        keras_bimp.shrink(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(ValueError, match=r"`align`.*align=0"):
        keras_bimp.shrink(model, align=0)

    class Own(keras.Model):
        def call(self, x):
            return model(x)

    own = Own()
    own.build(model.input_shape)
    with pytest.raises(ValueError, match=r"`model`.*Functional.*Own"):
        keras_bimp.shrink(own)
    model.get_layer("head").quantize("int8")
    with pytest.raises(ValueError, match=r"`model`.*quantized.*head"):
        keras_bimp.shrink(model)


def test_errors_of_a_layer_without_config():
    class Scale(layers.Layer):
        def __init__(self, factor):
            super().__init__()
            self.factor = [factor]

        def get_config(self):
            raise NotImplementedError("none here")

        def call(self, x):
            return x * self.factor[0]

    first = conv()
    scale = Scale(2.0)
    scale.name = "mine"
    model = build(lambda x: scale(head(first(x))), first)
    with pytest.raises(ValueError, match=r"`model`.*Scale.*'mine'.*none here"):
        keras_bimp.shrink(model)


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_on_every_backend(backend):
    first, other = conv(padding="same", name="first"), conv(padding="same")

    def body(x):
        y = layers.BatchNormalization()(first(x))
        y = layers.Add()([other(x), layers.ReLU()(y)])
        y = layers.AveragePooling2D(3, 2, padding="same")(y)
        return head(conv(4, padding="same")(y))

    assert shrunk_shapes(build(body, first, other))["first"][-1] == 6


def sequential():
    first = layers.Dense(8)
    model = keras.Sequential([keras.Input((3,)), first, layers.Dense(2)])
    return model, first


def functional():
    first = layers.Dense(8)
    inputs = keras.Input((3,))
    return keras.Model(inputs, layers.Dense(2)(first(inputs))), first


@pytest.mark.parametrize("make", [sequential, functional])
def test_inputs_keep_the_names_that_clients_use(make):
    model, first = make()
    prune(first)
    shrunk = keras_bimp.shrink(model, align=1)
    assert shrunk.layers[-2].units == 5
    assert [x.name for x in shrunk.inputs] == [x.name for x in model.inputs]
