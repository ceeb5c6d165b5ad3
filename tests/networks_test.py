"""The studies' networks: training, weight decay and attention."""

import keras
import numpy as np
import pytest
from from_examples import STUDY
from from_examples import importable
from helpers import array
from keras import ops

import keras_bimp
from keras_bimp._src.masking import find_prunable

pytestmark = pytest.mark.slow

SMALL = {
    "resnet20": {"width": 4, "input_shape": (8, 8, 3)},
    "resnet18": {"width": 4, "input_shape": (8, 8, 3)},
    "wide_resnet_28_10": {"width": 4, "input_shape": (8, 8, 3), "classes": 10},
    "vgg16": {"width": 2},
    "unet": {"width": 2, "input_shape": (8, 8, 3), "classes": 10},
    "maxvit_t": {
        "width": 8,
        "head_size": 4,
        "blocks": (2,),  # Sometimes skips the second.
        "window": 2,
        "stem_strides": 1,
        "stochastic_depth": 0.2,
        "input_shape": (8, 8, 3),
        "classes": 10,
    },
}


@pytest.fixture(scope="module")
def networks():
    with importable(STUDY):
        import networks

        yield networks


def decay(model, weight_decay):
    """Returns the loss of coupled weight decay of all kernels."""
    kernels = [k.variable for k in find_prunable(model).kernels]
    return weight_decay / 2 * sum((array(k) ** 2).sum() for k in kernels)


def check_it_trains(model):
    """Checks that one step changes all kernels, and all values are finite."""
    images = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:]))
    labels = np.zeros((2, *model.output_shape[1:-1]), "int32")
    model = keras_bimp.wrap(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Otherwise JAX would compile each operation separately.
    jit_compile = keras.backend.backend() == "jax"
    model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=jit_compile)
    before = [array(v) for v in model.trainable_variables]
    assert np.isfinite(model.train_on_batch(images, labels))
    for variable, old in zip(model.trainable_variables, before, strict=True):
        assert np.isfinite(array(variable)).all()
        if variable.name == "kernel":
            assert (array(variable) != old).any(), variable.path


@pytest.mark.parametrize("name", list(SMALL))
def test_small_ones_train(networks, name):
    keras.utils.set_random_seed(0)
    model = getattr(networks, name)(**SMALL[name], weight_decay=1e-2)
    expected = decay(model, 1e-2)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-4)
    check_it_trains(model)


@pytest.mark.every_backend
def test_maxvit_trains(networks):
    keras.utils.set_random_seed(0)
    check_it_trains(networks.maxvit_t(**SMALL["maxvit_t"], weight_decay=1e-2))


def test_library_networks_decay_all_their_kernels(networks):
    shape = (32, 32, 3)
    plain = networks.keras_resnet50(10, shape)
    assert plain.losses == []
    model = networks.keras_resnet50(10, shape, weight_decay=1e-4)
    assert [v.shape for v in model.variables] == [
        v.shape for v in plain.variables
    ]
    assert len(model.losses) == len(find_prunable(model).kernels) == 54
    assert float(sum(model.losses)) == pytest.approx(
        decay(model, 1e-4), rel=1e-4
    )
    assert model.layers[-1].activation is keras.activations.linear
    # Weight decay survives the config.
    again = keras.Model.from_config(model.get_config())
    assert len(again.losses) == 54


@pytest.mark.parametrize("channels", [15, 16])
def test_projections_are_strided_convolutions(networks, channels):
    inputs = keras.Input((5, 6, channels))
    convolution = networks.pieces.convolution(0.0)
    outputs = networks.pieces.projection(inputs, convolution, 4, 2)
    model = keras.Model(inputs, outputs)
    # With few channels, convolutions are not strided; see there.
    picks = any(isinstance(x, keras.layers.MaxPooling2D) for x in model.layers)
    assert picks == (channels < 16)
    x = np.random.default_rng(0).normal(size=(2, 5, 6, channels))
    kernel = array(model.weights[0])[0, 0]
    np.testing.assert_allclose(
        model.predict(x, verbose=0), x[:, ::2, ::2] @ kernel, 1e-4, 1e-5
    )


# MaxViT.


def test_windows_are_blocks_or_positions_a_grid_apart(networks):
    image = np.arange(4 * 6).reshape(1, 4, 6, 1)
    blocks, put_back = networks.maxvit.partition(
        ops.convert_to_tensor(image), (2, 3), across=False
    )
    assert blocks.shape == (1, 4, 6, 1)
    assert array(keras.Variable(blocks))[0, 0, :, 0].tolist() == [
        *(0, 1, 2),
        *(6, 7, 8),
    ]
    np.testing.assert_array_equal(put_back(blocks), image)
    grid, put_back = networks.maxvit.partition(
        ops.convert_to_tensor(image), (2, 3), across=True
    )
    assert array(keras.Variable(grid))[0, 0, :, 0].tolist() == [
        *(0, 2, 4),
        *(12, 14, 16),
    ]
    np.testing.assert_array_equal(put_back(grid), image)


def test_the_bias_is_that_of_the_way_between_two_positions(networks):
    layer = networks.maxvit.RelativePositionBias((2, 3))
    layer.build((None, 1, 1, 6, 6))
    ways = [(down, right) for down in range(-1, 2) for right in range(-2, 3)]
    layer.biases.assign([[100 * down + right for down, right in ways]])
    found = ops.convert_to_numpy(layer(np.zeros((1, 1, 1, 6, 6))))
    for p in range(6):
        for q in range(6):
            down, right = p // 3 - q // 3, p % 3 - q % 3
            assert found[0, 0, 0, p, q] == 100 * down + right


def test_a_saved_maxvit_loads_and_a_window_that_does_not_fit_is_told(
    networks, tmp_path
):
    model = networks.maxvit_t(**SMALL["maxvit_t"])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(0).normal(size=(1, 8, 8, 3))
    np.testing.assert_array_equal(loaded(images), model(images))
    with pytest.raises(ValueError, match="window=3"):
        networks.maxvit_t(**(SMALL["maxvit_t"] | {"window": 3}))
