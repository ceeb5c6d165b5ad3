"""Known networks, shrunk: the same outputs with fewer channels.

`SHRINKING_NETWORKS=all` also tries the larger ones.
"""

import os

import keras
import numpy as np
import pytest
from from_examples import STUDY
from from_examples import importable

import keras_bimp
from keras_bimp._src.backends import as_array

pytestmark = pytest.mark.slow

LARGE = pytest.mark.skipif(
    os.environ.get("SHRINKING_NETWORKS") != "all", reason="takes long"
)
SHAPE = (32, 32, 3)


@pytest.fixture
def networks():
    with importable(STUDY):
        import networks

        yield networks


def application(name):
    build = getattr(keras.applications, name)
    return build(weights=None, input_shape=SHAPE, classes=10)


def with_random_statistics(model, seed=0):
    """Sets biases and batch normalization to values as after training."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape = variable.shape
        if variable.name == "moving_variance":
            variable.assign(rng.uniform(0.5, 2.0, shape))
        elif variable.name == "gamma":
            variable.assign(rng.uniform(0.5, 1.5, shape))
        elif variable.name in ("bias", "beta", "moving_mean"):
            variable.assign(0.3 * rng.normal(size=shape))
    return model


def pruned(model, sparsity, exclude=None):
    wrapped = keras_bimp.wrap(with_random_statistics(model))
    keras_bimp.prune(
        wrapped,
        sparsity,
        granularity="filter",
        allocation="coupled",
        exclude=exclude,
    )
    return keras_bimp.strip(wrapped)


def assert_same(model, shrunk, scale=1.0):
    x = scale * np.random.default_rng(1).normal(size=(2, *SHAPE))
    y, other = (
        keras.ops.convert_to_numpy(f(x.astype("float32")))
        for f in (model, shrunk)
    )
    np.testing.assert_allclose(other, y, rtol=0, atol=1e-5 * np.abs(y).max())


def share(model, shrunk):
    """Returns the fraction of multiply-adds that are left."""
    before, after = (
        keras_bimp.metrics.count_macs(m).dense for m in (model, shrunk)
    )
    return after / before


@pytest.mark.parametrize(
    ("name", "sparsity", "most"),
    [("resnet56", 0.6, 0.26), ("vgg16", 0.6, 0.19), ("unet", 0.6, 0.25)],
)
def test_networks_of_the_study(networks, name, sparsity, most):
    model = pruned(getattr(networks, name)(), sparsity, exclude=LAST.get(name))
    shrunk = keras_bimp.shrink(model)
    assert_same(model, shrunk)
    assert share(model, shrunk) < most
    left = {
        layer.filters % 8
        for layer in shrunk.layers
        if isinstance(layer, keras.layers.Conv2D)
    }
    assert left <= ({0} if name not in LAST else {0, 2})


LAST = {"unet": lambda layer: getattr(layer, "filters", None) == 2}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "most", "scale"),
    [
        ("MobileNetV2", 0.30, 1.0),
        pytest.param("DenseNet121", 0.32, 1.0, marks=LARGE),
        ("EfficientNetB0", 0.30, 50.0),
    ],
)
def test_applications(name, most, scale):
    model = pruned(application(name), 0.55)
    shrunk = keras_bimp.shrink(model)
    assert_same(model, shrunk, scale)
    assert share(model, shrunk) < most


@LARGE
def test_convnext_loses_units_between_its_normalizations():
    model = with_random_statistics(application("ConvNeXtTiny"))
    rng = np.random.default_rng(2)
    for layer in model.layers:
        if layer.name.endswith("pointwise_conv_1"):
            kernel = as_array(layer.kernel)
            kernel[:, rng.permutation(layer.units)[: layer.units // 2]] = 0
            layer.kernel.assign(kernel)
    shrunk = keras_bimp.shrink(model)
    assert_same(model, shrunk)
    assert share(model, shrunk) < 0.55
