"""Multiply-adds of known networks against published figures."""

import collections
import functools
import json
import math

import keras
import numpy as np
import pytest
from from_examples import STUDY
from from_examples import importable
from helpers import GOLDEN
from keras import layers

from keras_bimp._src.masking import find_prunable
from keras_bimp.metrics import Work
from keras_bimp.metrics import count_macs
from keras_bimp.metrics import theoretical_speedup

pytestmark = pytest.mark.slow


def golden_network():
    """Builds the network of the golden counts."""
    same = functools.partial(layers.Conv2D, padding="same", use_bias=False)
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            same(8, 3),
            layers.ReLU(),
            same(16, 3, 2),
            layers.ReLU(),
            same(16, 1),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_counts_match_the_reference(seed):
    golden = json.loads((GOLDEN / "flops.json").read_text())[f"A/seed{seed}"]
    rng = np.random.RandomState(seed)
    model = golden_network()
    kernels = find_prunable(model).kernels
    densities = golden["density"] or [1] * len(kernels)
    for kernel, (_, shape, left), density in zip(
        kernels, golden["layers"], densities, strict=True
    ):
        weights = rng.rand(*shape) + 0.1
        if golden["density"]:
            weights *= rng.rand(*shape) < density
        assert np.count_nonzero(weights) == left
        # From (out, in, height, width).
        order = [2, 3, 1, 0] if weights.ndim == 4 else [1, 0]
        kernel.variable.assign(weights.transpose(order))
    macs = count_macs(model)
    assert macs.dense == golden["total_flops"]
    assert macs.nonzero == golden["nonzero_flops"]
    assert theoretical_speedup(model) == pytest.approx(golden["speedup"])


# Networks of the literature.


@pytest.fixture(scope="module")
def networks():
    with importable(STUDY):
        import networks

        yield networks


@pytest.mark.parametrize(
    ("name", "parameters", "prunable", "count"),
    [
        ("resnet20", 269_722, 268_336, 40_551_040),
        ("resnet56", 853_018, 848_944, 125_485_696),
        ("resnet18", 11_173_962, 11_164_352, 555_422_720),
        # In a block, the second convolution is strided, not the first.
        ("wide_resnet_28_10", 36_546_980, 36_518_832, 5_951_175_168),
        ("vgg16", 14_724_042, 14_715_584, 313_201_664),
        # Published: 31 M parameters and 5.6 G multiply-adds.
        ("maxvit_t", 30_919_624, 30_757_056, 5_558_046_720),
        # With moving statistics it is 25,636,712.
        ("keras_resnet50", 25_583_592, 25_502_912, 3_857_973_248),
        ("keras_vgg16", 138_357_544, 138_344_128, 15_470_264_320),
    ],
)
def test_networks_of_the_paper(networks, name, parameters, prunable, count):
    model = getattr(networks, name)()
    sizes = [math.prod(v.shape) for v in model.trainable_variables]
    assert sum(sizes) == parameters
    if name == "keras_resnet50":
        assert model.count_params() == 25_636_712
    kernels = find_prunable(model).kernels
    assert sum(kernel.size for kernel in kernels) == prunable
    only_adds = {networks.maxvit.RelativePositionBias: lambda call: Work()}
    macs = count_macs(model, rules=only_adds)
    assert (macs.dense, macs.unknown) == (count, ())


def profiled(model):
    """Returns operation type -> operations, by TensorFlow's profiler."""
    import tensorflow as tf

    profiler = tf.compat.v1.profiler
    spec = tf.TensorSpec((1, *model.input_shape[1:]))
    graph = tf.function(model).get_concrete_function(spec).graph
    options = profiler.ProfileOptionBuilder(
        profiler.ProfileOptionBuilder.float_operation()
    )
    node = profiler.profile(
        graph, cmd="op", options=options.with_empty_output().build()
    )
    counts = {}
    while node.children:
        (node,) = node.children
        counts[node.name] = node.float_ops
    return counts


TYPES = {
    layers.Conv2D: "Conv2D",
    layers.DepthwiseConv2D: "DepthwiseConv2dNative",
    layers.Dense: "MatMul",
}


@pytest.mark.parametrize(
    "name",
    ["ResNet50", "VGG16", "MobileNetV2", "EfficientNetB0", "ConvNeXtTiny"],
)
def test_applications_agree_with_the_profiler_of_tensorflow(name):
    application = getattr(keras.applications, name)
    model = application(weights=None, input_shape=(64, 64, 3))
    macs = count_macs(model)
    assert macs.unknown == ()
    counted, grouped = collections.Counter(), []
    for layer in model._flatten_layers():
        if layer.path in macs.layers:
            count = macs.layers[layer.path].dense
            if getattr(layer, "groups", 1) > 1:
                grouped.append((layer, count))
            else:
                counted[TYPES[type(layer)]] += count
    # The profiler counts a multiply-add as two operations. It also counts
    # biases, normalization (Mul, AddV2, Rsqrt, Sub), pooling and softmax.
    found = profiled(model)
    found = {type: found.get(type, 0) for type in TYPES.values()}
    assert found == {type: 2 * counted[type] for type in TYPES.values()}
    # It does not see grouped convolutions, here a 7x7 kernel per channel,
    # because they are in a function compiled with XLA.
    assert len(grouped) == (18 if name == "ConvNeXtTiny" else 0)
    for layer, count in grouped:
        assert count == 7 * 7 * math.prod(layer.output.shape[1:])
    total = sum(counted.values()) + sum(count for _, count in grouped)
    assert total == macs.dense


# Figures derived from the counts.
