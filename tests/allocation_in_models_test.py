"""Criteria, allocations and granularities, in models and in `fit`."""

import keras
import numpy as np
import pytest
from helpers import data
from helpers import fit
from helpers import kernels_and_masks
from helpers import lines_with
from helpers import masked
from helpers import wrapped
from keras import layers
from layer_types import LAYERS
from layer_types import layer_model

import keras_bimp
from keras_bimp._src import selection

# The layers whose kernels have filters; the others are left alone.
WITH_FILTERS = {name for name in LAYERS if "Conv" in name}
# Kernels that have no axis to sum over.
NO_INPUTS = {"DepthwiseConv1D": 1, "DepthwiseConv2D": 1} | {
    "SeparableConv1D": 1,
    "SeparableConv2D": 1,
}


def wrapped_layer(name):
    make, shape, _, _ = LAYERS[name]
    model = keras_bimp.wrap(layer_model(make(), shape))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    return model, masked(model).kernels


def train(model, name):
    """Trains for one epoch, in which pruned weights must stay 0."""
    _, shape, _, _ = LAYERS[name]
    x = np.random.default_rng(0).standard_normal((8, *shape)).astype("float32")
    before = [mask for _, mask in kernels_and_masks(model)]
    model.fit(x, model.predict(x, verbose=0) + 1, epochs=1, verbose=0)
    for old, (kernel, mask) in zip(
        before, kernels_and_masks(model), strict=True
    ):
        np.testing.assert_array_equal(mask, old)
        assert not kernel[~mask].any()
        yield mask


def masks_after_training(model, name, kernels):
    """Returns masks of shape (space, inputs, outputs) by kernel."""
    return [
        kernel.layout.matrices(mask)
        for kernel, mask in zip(kernels, train(model, name), strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_filters_of_every_layer_type(name):
    model, kernels = wrapped_layer(name)
    if name not in WITH_FILTERS:
        with pytest.raises(
            ValueError, match=rf"`granularity`.*{kernels[0].path}"
        ):
            keras_bimp.prune(model, 0.5, granularity="filter")
        return
    pruning = keras_bimp.prune(model, 0.5, granularity="filter")
    assert len(pruning.counts) == len(kernels)
    for mask in masks_after_training(model, name, kernels):
        whole = mask.all((0, 1))
        assert (mask.any((0, 1)) == whole).all()
        assert whole.sum() == len(whole) - round(0.5 * len(whole))


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_2_of_4_of_every_layer_type(name):
    model, kernels = wrapped_layer(name)
    without = NO_INPUTS.get(name, 0)
    if without == len(kernels):
        with pytest.raises(
            ValueError, match=rf"`granularity`.*{kernels[0].path}"
        ):
            keras_bimp.prune(model, 0.5, granularity="2:4")
        return
    pruning = keras_bimp.prune(model, 0.5, granularity="2:4")
    assert len(pruning.counts) == len(kernels) - without
    assert len(pruning.skipped) == without
    for kernel, mask in zip(
        kernels, masks_after_training(model, name, kernels), strict=True
    ):
        _, inputs, _ = mask.shape
        if kernel.path not in pruning.counts:
            assert mask.all()
            continue
        for start in range(0, inputs, 4):
            group = mask[:, start : start + 4]
            # The last group may be short.
            assert (group.sum(1) == min(2, inputs - start)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_blocks_of_every_layer_type(name):
    model, kernels = wrapped_layer(name)
    how = {
        "granularity": selection.Block((2, 1)),
        "allocation": "uniform",
        "on_collapse": "ignore",
    }
    without = NO_INPUTS.get(name, 0)
    if without == len(kernels):
        with pytest.raises(
            ValueError, match=rf"`granularity`.*{kernels[0].path}"
        ):
            keras_bimp.prune(model, 0.5, **how)
        return
    pruning = keras_bimp.prune(model, 0.5, **how)
    assert len(pruning.skipped) == without
    for kernel, mask in zip(
        kernels, masks_after_training(model, name, kernels), strict=True
    ):
        if kernel.path not in pruning.counts:
            assert mask.all()
            continue
        space, inputs, outputs = mask.shape
        units = space * -(-inputs // 2) * outputs
        kept = 0
        for start in range(0, inputs, 2):
            block = mask[:, start : start + 2]
            assert (block.all(1) == block.any(1)).all()
            kept += block.all(1).sum()
        assert kept == units - round(0.5 * units)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["LSTM", "MultiHeadAttention", "SeparableConv2D"]
)
@pytest.mark.parametrize("allocation", ["uniform", "erk", "lamp", "relative"])
def test_allocations_in_layers_of_several_kernels(name, allocation):
    model, kernels = wrapped_layer(name)
    total = sum(kernel.size for kernel in kernels)
    pruning = keras_bimp.prune(
        model, 0.6, allocation=allocation, on_collapse="ignore"
    )
    left = sum(pruning.counts.values())
    if allocation in ("lamp", "relative"):
        assert left == total - round(0.6 * total)
    elif allocation == "uniform":
        assert left == sum(k.size - round(0.6 * k.size) for k in kernels)
    counted = [mask.sum() for mask in train(model, name)]
    assert counted == list(pruning.counts.values())


def convolutional():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Reshape((6, 1)),
            layers.Conv1D(8, 3, name="first"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv1D(10, 3, name="second"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(3, name="head"),
        ],
        name="net",
    )


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_filters_in_three_cycles(capsys):
    model = wrapped(model=convolutional())
    (callback,) = keras_bimp.callbacks(
        0.5, dense_epochs=1, cycles=3, granularity="filter"
    )
    history = fit(model, 7, [callback]).history
    *convolutions, head = [mask for _, mask in kernels_and_masks(model)]
    assert [mask.all((0, 1)).sum() for mask in convolutions] == [4, 5]
    assert head.all()
    # The fraction of the convolutions' weights.
    np.testing.assert_allclose(history["sparsity"][-1], 0.5)
    printed = capsys.readouterr().out
    assert lines_with(printed, "2", "kernels", "264")
    assert lines_with(printed, "filters", "magnitude", "uniform")
    assert lines_with(printed, "net/head/kernel", "filters")
    # The plan predicts the result.
    left = [sum(p.counts.values()) for p in callback.prunings]
    assert [264 - n for n in callback.plan.pruned(264)[1:]] == left
    for count in left:
        assert f" {count} " in printed


def test_a_plan_says_how_many_weights_uniform_leaves():
    model = wrapped()
    (callback,) = keras_bimp.callbacks(
        0.7, dense_epochs=1, cycles=2, allocation="uniform", verbose=0
    )
    fit(model, 3, [callback])
    # 33.6 of 48 and 16.8 of 24 weights: 34 and 17, not 50.4 of 72.
    assert list(callback.prunings[-1].counts.values()) == [14, 7]
    assert callback.plan.pruned(72)[-1] == 51


def test_2_of_4_in_fit():
    model = wrapped()
    fit(
        model,
        2,
        keras_bimp.callbacks(0.5, dense_epochs=1, granularity="2:4", verbose=0),
    )
    first, second = (mask for _, mask in kernels_and_masks(model))
    assert (second.reshape(2, 4, 3).sum(1) == 2).all()
    assert (first[:4].sum(0) == 2).all()
    assert first[4:].all()  # 2 inputs are no more than stay of 4.


def test_filters_and_exclude_choose_layers():
    model = wrapped(model=convolutional())
    pruning = keras_bimp.prune(model, 0.5, filters=["second", "head"])
    assert list(pruning.counts) == [
        "net/second/kernel",
        "net/head/kernel",
    ]
    assert sum(pruning.counts.values()) == (240 + 60) / 2
    ((path, reason),) = pruning.skipped
    assert path == "net/first/kernel"
    assert "`filters`" in reason
    pruning = keras_bimp.prune(model, 0.8, exclude="first|head")
    assert pruning.counts == {"net/second/kernel": 48}
    assert "`exclude`" in dict(pruning.skipped)["net/head/kernel"]
    pruning = keras_bimp.prune(
        model, 0.9, exclude=lambda layer: isinstance(layer, layers.Conv1D)
    )
    assert list(pruning.counts) == ["net/head/kernel"]


def test_wrap_excludes():
    model = keras_bimp.wrap(convolutional(), exclude="head")
    assert [k.layer.name for k in masked(model).kernels] == ["first", "second"]
    ((path, reason),) = masked(model).skipped
    assert path == "net/head/kernel"
    assert "`exclude`" in reason


def test_frozen_layers_are_left_out_and_listed():
    model = convolutional()
    model.get_layer("first").trainable = False
    pruning = keras_bimp.prune(wrapped(model=model), 0.5)
    assert sum(pruning.counts.values()) == 150
    assert pruning.skipped == (("net/first/kernel", "frozen"),)


def test_what_one_layer_is_told_holds_on_the_way_and_at_the_end():
    model = wrapped(model=convolutional())
    (callback,) = keras_bimp.callbacks(
        0.84,
        dense_epochs=1,
        cycles=2,
        verbose=0,
        layer_sparsity={"first": 0.0, "head": 0.75},
        max_layer_sparsity={"net/second/kernel": 0.95},
    )
    fit(model, 5, [callback])
    middle, end = (p.counts for p in callback.prunings)
    assert list(end.values())[::2] == [24, 15]
    assert sum(end.values()) == 324 - round(0.84 * 324)
    # Halfway to 75% is 50%, as halfway to 84% is 60%.
    assert list(middle.values())[::2] == [24, 30]
    assert sum(middle.values()) == 324 - round(0.6 * 324)


def test_all_layers_may_be_told_their_sparsity_in_several_cycles():
    model = wrapped()
    first, second = (kernel.path for kernel in masked(model).kernels)
    (callback,) = keras_bimp.callbacks(
        0.75,
        dense_epochs=1,
        cycles=3,
        verbose=0,
        on_collapse="ignore",
        layer_sparsity={first: 0.875, second: 0.5},
    )
    fit(model, 4, [callback])
    # Each has its geometric path: each time a half, and a little more than a
    # fifth, of the remaining weights are pruned.
    kept = [list(p.counts.values()) for p in callback.prunings]
    assert kept == [[24, 19], [12, 15], [6, 12]]


def test_layers_of_the_same_name_are_told_apart():
    inner = [
        keras.Sequential([keras.Input((4,)), layers.Dense(4, name="d")])
        for _ in range(2)
    ]
    inputs = keras.Input((4,))
    outputs = layers.Dense(3, name="out")(inner[1](inner[0](inputs)))
    model = keras.Model(inputs, outputs)
    model.compile(
        "sgd", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    x, y = data(features=4)
    result = keras_bimp.sensitivity(model, (x, y), (0.5,), verbose=0)
    pruning = keras_bimp.prune(keras_bimp.wrap(model), 0.5)
    assert list(result.accuracies) == list(pruning.counts)
    assert len(pruning.counts) == 3


def test_a_masked_embedding_is_pruned_unless_excluded():
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            layers.Embedding(10, 4, name="table"),
            layers.Flatten(),
            layers.Dense(3, name="out"),
        ]
    )
    model.compile(
        "sgd", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    x = np.random.default_rng(0).integers(0, 10, (8, 3))
    y = np.arange(8) % 3
    plain = keras_bimp.sensitivity(model, (x, y), (0.5,), verbose=0)
    assert [path.split("/")[1] for path in plain.accuracies] == ["out"]
    model = keras_bimp.wrap(model, filters=["table", "out"])
    result = keras_bimp.sensitivity(model, (x, y), (0.5,), verbose=0)
    assert len(result.accuracies) == 2
    assert len(keras_bimp.prune(model, 0.5, exclude="nosuch").counts) == 2
    assert len(keras_bimp.prune(model, 0.6, exclude="table").counts) == 1


def test_filters_mean_the_same_on_a_wrapped_model():
    inputs = keras.Input((6,))
    hidden = layers.Dense(4, name="a")(inputs)
    outputs = layers.Dense(3, name="b")(hidden)
    model = keras.Model(inputs, outputs, name="net_of_a_kind")
    model = keras_bimp.wrap(model)
    assert len(keras_bimp.prune(model, 0.5, exclude="net").counts) == 2
    with pytest.raises(ValueError, match=r"`filters`.*a/kernel"):
        keras_bimp.prune(model, 0.5, filters="kind")


def test_caps_of_layers_that_are_left_out_are_no_error():
    model = wrapped(model=convolutional())
    caps = {"net/first/kernel": 0.5, "net/head/kernel": 0.6}
    pruning = keras_bimp.prune(
        model, 0.7, exclude="head", max_layer_sparsity=caps
    )
    assert pruning.counts["net/first/kernel"] >= 12


def test_caps_of_layers_that_are_left_out_are_no_error_in_fit():
    model = wrapped(model=convolutional())
    (callback,) = keras_bimp.callbacks(
        0.7,
        dense_epochs=1,
        cycles=2,
        exclude="head",
        max_layer_sparsity={"net/first/kernel": 0.5, "net/head/kernel": 0.6},
        layer_sparsity={"net/head/kernel": 0.0},
        verbose=0,
    )
    fit(model, 3, [callback])
    counts = callback.prunings[-1].counts
    assert sum(counts.values()) == 264 - round(0.7 * 264)
    assert counts["net/first/kernel"] >= 12
