"""`shrink`: what each kind of layer loses and keeps, and errors."""

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
from shrinking_helpers import shrunk_shapes

import keras_bimp
from keras_bimp._src.backends import as_array

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
