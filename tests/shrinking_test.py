"""`shrink`: what each kind of layer loses and keeps, and errors."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_bimp
from keras_bimp._src.backends import as_array

GONE = [1, 2, 5]  # Filters that the tests prune, of 8.


def prune(*pruned, gone=GONE):
    """Zeros filters of some layers of any kind."""
    for layer in pruned:
        name = "kernel"
        if isinstance(layer, layers.SeparableConv2D):
            name = "pointwise_kernel"
        kernel = as_array(getattr(layer, name))
        if isinstance(layer, (layers.Conv2DTranspose, layers.DepthwiseConv2D)):
            kernel[..., gone, :] = 0
        else:
            kernel[..., gone] = 0
        getattr(layer, name).assign(kernel)


def randomize(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value = rng.normal(size=variable.shape)
        if variable.name == "moving_variance":
            value = np.abs(value) + 0.5
        variable.assign(value)


def build(body, *pruned, shape=(6, 6, 3), gone=GONE):
    """Builds a model of random weights, with some filters pruned."""
    inputs = keras.Input(shape)
    model = keras.Model(inputs, body(inputs))
    randomize(model)
    prune(*pruned, gone=gone)
    return model


def assert_same(model, shrunk, seed=1):
    rng = np.random.default_rng(seed)
    x = keras.tree.map_structure(
        lambda t: rng.normal(size=(3, *t.shape[1:])).astype("float32"),
        model._inputs_struct,
    )
    before, after = (
        [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(f(x))]
        for f in (model, shrunk)
    )
    for y, other in zip(before, after, strict=True):
        scale = np.abs(y).max()
        np.testing.assert_allclose(other, y, rtol=0, atol=1e-5 * scale)


def shrunk_shapes(model, **kwargs):
    """Shrinks, checks outputs, and returns name -> first weight's shape."""
    shrunk = keras_bimp.shrink(model, **{"align": 1, **kwargs})
    assert_same(model, shrunk)
    return {
        layer.name: tuple(layer.weights[0].shape)
        for layer in shrunk._flatten_layers()
        if layer.weights and not isinstance(layer, keras.Model)
    }


def assert_stays(model):
    with pytest.raises(ValueError, match=r"`model`.*granularity='unit'"):
        keras_bimp.shrink(model, align=1)


def head(x):
    return layers.Dense(2, name="head")(layers.GlobalAveragePooling2D()(x))


def conv(filters=8, size=3, **kwargs):
    return layers.Conv2D(filters, size, **kwargs)


BETWEEN = {
    "nothing": layers.Identity,
    "ReLU": layers.ReLU,
    "BatchNormalization": layers.BatchNormalization,
    "LeakyReLU": layers.LeakyReLU,
    "PReLU": lambda: layers.PReLU(shared_axes=[1, 2]),
    "ELU": layers.ELU,
    "gelu": lambda: layers.Activation("gelu"),
    "MaxPooling2D": lambda: layers.MaxPooling2D(2),
    "AveragePooling2D": lambda: layers.AveragePooling2D(2, 1, padding="same"),
    "Dropout": lambda: layers.Dropout(0.5),
    "SpatialDropout2D": lambda: layers.SpatialDropout2D(0.5),
    "UpSampling2D": lambda: layers.UpSampling2D(2, interpolation="bilinear"),
    "Cropping2D": lambda: layers.Cropping2D(1),
    "instance": lambda: layers.GroupNormalization(-1),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_lies_between_two_convolutions(name):
    first = conv(name="first")
    second = conv(4, 1, name="second", use_bias=False)
    between = BETWEEN[name]()
    model = build(lambda x: second(between(first(x))), first)
    shapes = shrunk_shapes(model)
    assert shapes["first"] == (3, 3, 3, 5)
    assert shapes["second"] == (1, 1, 5, 4)


LINEAR = {
    "Conv2D": (lambda: conv(), (3, 3, 3, 5)),
    "strided": (lambda: conv(strides=2, padding="same"), (3, 3, 3, 5)),
    "Conv2DTranspose": (
        lambda: layers.Conv2DTranspose(8, 3, strides=2),
        (3, 3, 5, 3),
    ),
    "SeparableConv2D": (lambda: layers.SeparableConv2D(8, 3), (3, 3, 3, 1)),
    "Dense": (lambda: layers.Dense(8), (3, 5)),
    "EinsumDense": (
        lambda: layers.EinsumDense("abcd,ed->abce", (None, None, 8)),
        (8, 3),
    ),
}


@pytest.mark.parametrize("name", LINEAR)
def test_what_has_filters(name):
    made, shape = LINEAR[name]
    layer = made()
    layer.name = "layer"
    model = build(
        lambda x: head(layers.ReLU()(layer(x))),
        *([] if name == "EinsumDense" else [layer]),
    )
    if name == "EinsumDense":
        kernel = as_array(layer.kernel)
        kernel[GONE] = 0
        layer.kernel.assign(kernel)
        shape = (5, 3)
    shapes = shrunk_shapes(model)
    assert shapes["layer"] == shape
    assert shapes["head"] == (5, 2)


READERS = {
    "Conv2D": lambda: conv(4, padding="same"),
    "strided": lambda: conv(4, strides=2, padding="same"),
    "grouped": lambda: conv(4, groups=2, padding="same"),
    "Conv2DTranspose": lambda: layers.Conv2DTranspose(4, 3, strides=2),
}


@pytest.mark.parametrize("name", READERS)
def test_one_constant_stands_for_others_at_a_border(name):
    first = conv(name="first", padding="same", activation="sigmoid")
    reader = READERS[name]()
    reader.name = "reader"
    gone = [1, 2, 5, 6]
    model = build(lambda x: head(reader(first(x))), first, gone=gone)
    # One, or one in each of two groups.
    left = 6 if name == "grouped" else 5
    assert shrunk_shapes(model)["first"][-1] == left


def test_zeros_leave_no_constant():
    first = conv(padding="same", use_bias=False, name="first")
    second = conv(4, padding="same", name="second")
    model = build(lambda x: second(layers.ReLU()(first(x))), first)
    assert shrunk_shapes(model)["second"] == (3, 3, 5, 4)


def test_constants_become_a_bias():
    first = conv(activation="sigmoid")
    second = conv(4, use_bias=False, name="second")
    model = build(lambda x: second(first(x)), first)
    shrunk = keras_bimp.shrink(model, align=1)
    assert_same(model, shrunk)
    assert not second.use_bias
    assert shrunk.get_layer("second").use_bias
    assert np.any(as_array(shrunk.get_layer("second").bias))


def test_depthwise_goes_with_its_input():
    first, depthwise = (
        conv(name="first"),
        layers.DepthwiseConv2D(
            3, padding="same", depth_multiplier=2, name="depthwise"
        ),
    )
    model = build(lambda x: head(depthwise(first(x))), first, depthwise)
    shapes = shrunk_shapes(model)
    assert shapes["first"] == (3, 3, 3, 5)
    assert shapes["depthwise"] == (3, 3, 5, 2)
    assert shapes["head"] == (10, 2)


def test_depthwise_alone_stays_where_a_constant_meets_a_border():
    first = conv(padding="same", activation="sigmoid", name="first")
    depthwise = layers.DepthwiseConv2D(3, padding="same")
    assert_stays(build(lambda x: head(depthwise(first(x))), first))


@pytest.mark.parametrize("kind", ["layer", "operation"])
def test_a_constant_that_is_padded_with_zeros_stays(kind):
    first = conv(activation="sigmoid")
    pad = layers.ZeroPadding2D(1)
    if kind == "operation":

        def pad(x):
            return keras.ops.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])

    assert_stays(build(lambda x: head(pad(first(x))), first))


def test_what_a_border_makes_of_constants_stays():
    first = conv(padding="same", activation="sigmoid", name="first")
    second = conv(padding="same", name="second")
    model = build(lambda x: head(second(first(x))), first)
    kernel = as_array(second.kernel)
    # The first filter reads only constants.
    kernel[:, :, [0, 3, 4, 6, 7], 0] = 0
    second.kernel.assign(kernel)
    assert shrunk_shapes(model)["second"] == (3, 3, 6, 8)


@pytest.mark.parametrize(
    "merge",
    [layers.Add, layers.Multiply, layers.Maximum, layers.Average],
)
def test_what_is_merged_goes_together(merge):
    one, other = conv(name="one"), conv(name="other")
    last = conv(4, 1, name="last")

    def body(x):
        return last(merge()([one(x), layers.BatchNormalization()(other(x))]))

    shapes = shrunk_shapes(build(body, one, other))
    assert shapes["one"][-1] == shapes["other"][-1] == shapes["last"][2] == 5


def test_what_is_added_to_a_filter_keeps_it():
    one, other = conv(), conv()
    assert_stays(build(lambda x: head(layers.Add()([one(x), other(x)])), one))


def test_a_gate_goes_with_the_zeros_that_it_gates():
    one = conv(use_bias=False, name="one")
    gate = conv(activation="sigmoid", name="gate")
    model = build(lambda x: head(layers.Multiply()([one(x), gate(x)])), one)
    assert shrunk_shapes(model)["gate"] == (3, 3, 3, 5)


def test_concatenated():
    one, other = conv(name="one"), conv(name="other")
    norm = layers.BatchNormalization(name="norm")
    model = build(
        lambda x: head(norm(layers.Concatenate()([one(x), other(x)]))), other
    )
    shapes = shrunk_shapes(model)
    assert shapes["one"][-1] == 8
    assert shapes["norm"] == (13,)


def test_flattened_and_reshaped():
    first, dense = conv(name="first"), layers.Dense(32, name="dense")
    last = conv(2, 1, name="last")

    def body(x):
        x = dense(layers.Flatten()(first(x)))
        return last(layers.ReLU()(layers.Reshape((2, 2, 8))(x)))

    model = build(body, first)
    kernel = as_array(dense.kernel).reshape(-1, 4, 8)
    kernel[:, :, GONE] = 0
    bias = as_array(dense.bias).reshape(4, 8)
    bias[:, GONE] = bias[0, GONE]
    dense.kernel.assign(kernel.reshape(-1, 32))
    dense.bias.assign(bias.reshape(-1))
    shapes = shrunk_shapes(model)
    assert shapes["dense"] == (4 * 4 * 5, 20)
    assert shapes["last"] == (1, 1, 5, 2)


def test_grouped_filters_go_evenly():
    grouped = conv(groups=2, name="grouped")
    model = build(lambda x: head(grouped(x)), grouped, shape=(6, 6, 4))
    # 1 and 2 of the first group, 5 of the second: 1 of each.
    assert shrunk_shapes(model)["grouped"] == (3, 3, 2, 6)
    prune(grouped, gone=[0, 1, 2, 3])
    model.layers[1].bias.assign(np.zeros(8))
    shapes = shrunk_shapes(model)
    assert shapes["grouped"] == (3, 3, 2, 6)


def test_a_whole_group_goes():
    first = conv(use_bias=False, name="first")
    grouped = conv(groups=2, name="grouped")
    model = build(
        lambda x: head(grouped(first(x))), first, grouped, gone=range(4)
    )
    shrunk = keras_bimp.shrink(model, align=1)
    assert_same(model, shrunk)
    assert shrunk.get_layer("grouped").groups == 1
    assert shrunk.get_layer("grouped").filters == 4


def test_group_normalization_loses_whole_groups():
    first = conv(name="first")
    norm = layers.GroupNormalization(4, name="norm")
    model = build(lambda x: head(norm(first(x))), first, gone=[2, 3, 4])
    assert shrunk_shapes(model)["norm"] == (6,)
    # 4 is constant and not read, but part of the statistics of 5.
    kernel = as_array(model.get_layer("head").kernel)
    kernel[4] = 0
    model.get_layer("head").kernel.assign(kernel)
    assert shrunk_shapes(model)["norm"] == (6,)


def test_layer_normalization_keeps_all():
    first = conv()
    model = build(lambda x: head(layers.LayerNormalization()(first(x))), first)
    with pytest.raises(
        ValueError, match=r"granularity='unit'.*LayerNormalization"
    ):
        keras_bimp.shrink(model, align=1)


def test_padding_with_channels():
    first, other = conv(use_bias=False, name="first"), conv(12, name="other")

    def body(x):
        wide = keras.ops.pad(first(x), [(0, 0), (0, 0), (0, 0), (1, 3)])
        return head(layers.Add()([wide, other(x)]))

    model = build(body, first)
    prune(other, gone=[0, 2, 3, 6, 11])
    # 0 and 11 are new, 2, 3 and 6 are 1, 2 and 5 of `first`.
    shapes = shrunk_shapes(model)
    assert shapes["first"][-1] == 5
    assert shapes["other"][-1] == 7


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
