"""One process, four devices, on JAX: `keras.distribution`."""

import keras
import numpy as np
import pytest
from helpers import TOTAL
from helpers import array
from helpers import compile_model
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import kernels_and_masks
from helpers import masked
from helpers import wrapped
from helpers import zeros
from keras import layers

import keras_bimp
from keras_bimp._src import selection
from keras_bimp._src import slots

pytestmark = pytest.mark.job("devices")


def data_parallel():
    return keras.distribution.DataParallel()


def model_parallel():
    mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"))
    layouts = keras.distribution.LayoutMap(mesh)
    layouts["sequential.*/dense/kernel"] = (None, "model")
    return keras.distribution.ModelParallel(
        layout_map=layouts, batch_dim_name="batch"
    )


KINDS = pytest.mark.parametrize("spread", [data_parallel, model_parallel])


@pytest.fixture(autouse=True)
def names_from_the_start():
    keras.backend.clear_session(free_memory=False)
    yield
    keras.distribution.set_distribution(None)


def train(model, **kwargs):
    ours = keras_bimp.callbacks(
        0.8, dense_epochs=2, cycles=2, verbose=0, **kwargs
    )
    return fit(model, 6, ours).history


@KINDS
def test_masks_and_slots_lie_where_their_kernels_do(spread):
    keras.distribution.set_distribution(spread())
    model = wrapped()
    train(model)
    layer = masked(model)
    kernels = [kernel.variable for kernel in layer.kernels]
    remembered = slots.slots(model.optimizer, kernels)
    for kernel, mask, pairs in zip(
        kernels, layer.masks, remembered, strict=True
    ):
        expected = kernel.value.sharding
        for variable in (mask, *(slot for slot, _ in pairs)):
            assert variable.value.sharding.is_equivalent_to(
                expected, len(kernel.shape)
            )
    first = kernels[0].value.addressable_shards[0].data.shape
    assert first == ((6, 4) if spread is model_parallel else (6, 8))


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"allocation": "lamp"},
        {"criterion": "saliency", "data": data()},
        {"retraining": "accallr", "data": data()},
        {"retraining": "wr"},
    ],
)
def test_it_trains_as_one_device_does(spread, arguments):
    keras.distribution.set_distribution(spread())
    model = wrapped()
    history = train(model, **arguments)
    assert zeros(model) == round(0.8 * TOTAL)
    keras.distribution.set_distribution(None)
    alone = wrapped()
    expected = train(alone, **arguments)
    for name in ("loss", "norm_drop", "discount", "learning_rate"):
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-4)
    for (_, mine), (_, theirs) in zip(
        kernels_and_masks(model), kernels_and_masks(alone), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


@KINDS
def test_what_looks_at_the_model_does_so(spread, tmp_path):
    keras.distribution.set_distribution(spread())
    model = wrapped()
    train(model)
    result = keras_bimp.sensitivity(model, data(), verbose=0)
    assert len(result.accuracies) == 2
    assert keras_bimp.recalibrate_batch_norm(model, data()[0]) == 1
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for mine, theirs in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(array(mine), array(theirs))
    stripped = keras_bimp.strip(model)
    assert keras_bimp.sparsity(stripped).prunable == 58 / TOTAL


@KINDS
def test_shards_of_one_process_choose_what_arrays_do(spread):
    keras.distribution.set_distribution(spread())
    model = compile_model(keras_bimp.wrap(dense_model()))
    keras_bimp.prune(model, 0.4)
    kernels = [kernel.variable for kernel in masked(model).kernels]
    masks = masked(model).masks
    policy = selection.as_policy()
    whole = selection.choose(
        [array(k) for k in kernels],
        0.7,
        policy,
        masks=[array(m) for m in masks],
    )
    parts = selection.choose(
        [selection.Shards.of(k.value) for k in kernels],
        0.7,
        policy,
        masks=[selection.Shards.of(m.value) for m in masks],
    )
    for mine, theirs in zip(parts.masks, whole.masks, strict=True):
        np.testing.assert_array_equal(np.asarray(mine.spread()), theirs)
        np.testing.assert_array_equal(mine.array(), theirs)


def test_a_convolution_is_spread_by_filters():
    mesh = keras.distribution.DeviceMesh((1, 4), ("batch", "model"))
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*conv.*kernel"] = (None, None, None, "model")
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layouts)
    )
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="conv")(inputs)
    x = layers.Conv2D(8, 3, name="conv_2")(x)
    model = keras_bimp.wrap(keras.Model(inputs, x))
    keras_bimp.prune(model, 0.5, granularity="filter")
    for mask in masked(model).masks:
        assert mask.value.addressable_shards[0].data.shape[-1] == 2
        assert array(mask).all((0, 1, 2)).sum() == 4
