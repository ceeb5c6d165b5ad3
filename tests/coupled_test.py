"""`allocation="coupled"`: coupled filters are pruned together."""

import keras
import numpy as np
import pytest
from helpers import compile_model
from keras import layers

import keras_bimp
from keras_bimp._src.backends import as_array
from keras_bimp.shrinking import filter_groups


def select(kernels, sparsity, groups, **kwargs):
    """Returns the filters to keep, for kernels of one weight per filter."""
    masks = keras_bimp.select(
        [np.reshape(np.array(k, float), (1, 1, 1, -1)) for k in kernels],
        sparsity,
        granularity="filter",
        allocation="coupled",
        groups=[np.array(group) for group in groups],
        **kwargs,
    )
    return [mask.reshape(-1).astype(int).tolist() for mask in masks]


def test_filters_of_one_number_go_together():
    # Scores are divided by the mean of their squares: the second group is the
    # lowest, although the first filter is the lowest of the first kernel.
    kernels = [[1.0, 2.0, 3.0, 4.0], [9.0, 1.0, 8.0, 7.0]]
    groups = [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert select(kernels, 0.25, groups) == [[1, 0, 1, 1], [1, 0, 1, 1]]


def test_every_kernel_gets_the_sparsity():
    # Half of the second kernel is coupled, half is not.
    kernels = [[1.0, 2.0], [9.0, 8.0, 1.0, 2.0], [5.0, 6.0]]
    groups = [[0, 1], [1, 0, 2, 3], [4, 5]]
    assert select(kernels, 0.5, groups) == [[0, 1], [1, 0, 0, 1], [0, 1]]


def test_kernels_count_by_their_own_scale():
    kernels = [[1.0, 2.0], [2000.0, 1000.0]]
    groups = [[0, 1], [0, 1]]
    # For ties, the lower index is pruned first.
    assert select(kernels, 0.5, groups) == [[0, 1], [0, 1]]
    kernels = [[1.0, 3.0], [2000.0, 1000.0]]
    assert select(kernels, 0.5, groups) == [[0, 1], [0, 1]]
    kernels = [[1.0, 2.0], [3000.0, 1000.0]]
    assert select(kernels, 0.5, groups) == [[1, 0], [1, 0]]


def test_what_is_pruned_stays_pruned():
    masks = [np.ones((1, 1, 1, 4), bool) for _ in range(2)]
    masks[0][..., 3] = masks[1][..., 3] = masks[0][..., 2] = False
    kernels = [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]]
    groups = [[0, 1, 2, 3], [0, 1, 2, 3]]
    kept = select(kernels, 0.5, groups, masks=masks)
    assert kept == [[0, 1, 0, 0], [0, 1, 1, 0]]


def test_a_kernel_keeps_a_filter():
    kernels, groups = [[1.0, 2.0, 3.0, 4.0], [1.0]], [[0, 1, 2, 3], [4]]
    ignored = select(kernels, 0.6, groups, on_collapse="ignore")
    assert ignored == [[0, 0, 1, 1], [0]]
    assert select(kernels, 0.6, groups) == [[0, 0, 1, 1], [1]]
    with pytest.raises(ValueError, match=r"on_collapse.* 0 .*kernel 1"):
        select(kernels, 0.6, groups, on_collapse="raise")


def test_limits():
    kernels = [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]]
    groups = [[0, 1, 2, 3], [0, 1, 2, 3]]
    kept = select(kernels, 0.5, groups, max_layer_sparsity=[None, 0.5])
    assert kept == [[0, 0, 1, 1]] * 2


def test_errors():
    kernels, groups = [[1.0, 2.0]], [[0, 1]]
    with pytest.raises(ValueError, match=r"`groups`.*groups=None"):
        keras_bimp.select(
            [np.ones((1, 1, 1, 2))],
            0.5,
            granularity="filter",
            allocation="coupled",
        )
    with pytest.raises(ValueError, match=r"`groups`.*\(3,\)"):
        select(kernels, 0.5, [[0, 1, 2]])
    with pytest.raises(ValueError, match=r"`layer_sparsity`.*'coupled'"):
        select(kernels, 0.5, groups, layer_sparsity=[0.5])
    with pytest.raises(ValueError, match=r"`granularity`.*'filter'.*'coupled'"):
        keras_bimp.select([np.ones((2, 2))], 0.5, allocation="coupled")
    with pytest.raises(ValueError, match=r"`groups`.*\[\[0, 1\]\]"):
        keras_bimp.select([np.ones((2, 2))], 0.5, groups=groups)


def residual_model():
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    for i in range(2):
        y = layers.Conv2D(6, 3, padding="same", name=f"inner{i}")(x)
        y = layers.BatchNormalization()(y)
        y = layers.DepthwiseConv2D(3, padding="same", name=f"depth{i}")(y)
        y = layers.Conv2D(8, 3, padding="same", name=f"outer{i}")(y)
        x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def dead_filters(model, name):
    kernel = as_array(model.get_layer(name).kernel)
    kernel = kernel.reshape(-1, kernel.shape[-2] * kernel.shape[-1])
    if not name.startswith("depth"):
        kernel = as_array(model.get_layer(name).kernel)
        kernel = kernel.reshape(-1, kernel.shape[-1])
    return np.flatnonzero(~kernel.any(0)).tolist()


def test_groups_of_a_residual_network():
    model = residual_model()
    named = ("stem", "inner0", "depth0", "outer0", "inner1", "outer1")
    stem, inner, depth, outer, other, last = filter_groups(
        model, [model.get_layer(name).kernel for name in named]
    )
    assert stem.tolist() == outer.tolist() == last.tolist()
    assert inner.tolist() == depth.tolist()
    assert not set(inner) & set(other)
    assert len(set(stem)) == 8


def test_a_residual_network_shrinks():
    model = residual_model()
    wrapped = keras_bimp.wrap(model)
    pruning = keras_bimp.prune(
        wrapped, 0.5, granularity="filter", allocation="coupled"
    )
    assert not pruning.protected
    stripped = keras_bimp.strip(wrapped)
    stream = dead_filters(stripped, "stem")
    assert len(stream) == 4
    assert dead_filters(stripped, "outer0") == stream
    assert dead_filters(stripped, "outer1") == stream
    assert dead_filters(stripped, "inner0") == dead_filters(stripped, "depth0")
    shrunk = keras_bimp.shrink(stripped, align=1)
    assert shrunk.get_layer("stem").filters == 4
    assert shrunk.get_layer("inner0").filters == 3


def test_masked_layers_inside_a_model():
    inputs = keras.Input((6, 6, 3))
    one, other = (
        keras_bimp.Masked(layers.Conv2D(4, 3, name=name)) for name in "ab"
    )
    x = layers.Add()([one(inputs), other(inputs)])
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    keras_bimp.prune(model, 0.5, granularity="filter", allocation="coupled")
    (mask,), (same,) = one.masks, other.masks
    np.testing.assert_array_equal(as_array(mask), as_array(same))


def test_in_callbacks():
    model = compile_model(keras_bimp.wrap(residual_model()))
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 3)).astype("float32")
    callbacks = keras_bimp.callbacks(
        0.5,
        dense_epochs=1,
        cycles=2,
        granularity="filter",
        allocation="coupled",
        verbose=0,
    )
    y = np.zeros(16, int)
    model.fit(x, y, epochs=3, callbacks=callbacks, verbose=0)
    stripped = keras_bimp.strip(model)
    stream = dead_filters(stripped, "stem")
    assert len(stream) == 4
    assert dead_filters(stripped, "outer1") == stream


def test_a_subclass_has_no_graph():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = layers.Conv2D(4, 3)

        def call(self, x):
            return self.conv(x)

    model = Own()
    model(np.zeros((1, 5, 5, 2), "float32"))
    with pytest.raises(ValueError, match=r"`model`.*Functional.*Own"):
        keras_bimp.prune(
            keras_bimp.wrap(model),
            0.5,
            granularity="filter",
            allocation="coupled",
        )


def normalized_model():
    """Builds filters that `shrink` can remove, and filters that it cannot."""
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, name="goes")(inputs)
    x = layers.Conv2D(4, 1, name="stays")(x)
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(inputs, layers.Conv2D(2, 1, name="last")(x))


def test_it_warns_of_filters_that_cannot_go():
    wrapped = keras_bimp.wrap(normalized_model())
    told = (
        "remove filters from 2 of 3 kernels.*stays/kernel .'norm': "
        "LayerNormalization is not followed.*last/kernel .they are outputs"
    )
    with pytest.warns(UserWarning, match=told):
        keras_bimp.prune(
            wrapped, 0.5, granularity="filter", allocation="coupled"
        )
    # Follows the warning.
    keras_bimp.prune(
        wrapped,
        0.5,
        granularity="filter",
        allocation="coupled",
        exclude=["stays", "last"],
    )
    pruning = keras_bimp.prune(wrapped, 0.5, granularity="unit")
    assert pruning.units == {"filters of goes": (4, 8)}


def test_the_plan_tells_of_filters_that_cannot_go(capsys):
    model = keras_bimp.wrap(normalized_model())
    model.compile("sgd", "mse")
    callbacks = keras_bimp.callbacks(
        0.5, dense_epochs=0, granularity="filter", allocation="coupled"
    )
    x, y = np.ones((4, 6, 6, 3)), np.ones((4, 4, 4, 2))
    with pytest.warns(UserWarning, match="LayerNormalization is not followed"):
        model.fit(x, y, epochs=1, callbacks=callbacks, verbose=0)
    kept = "pruned, but `shrink` keeps it: stays/kernel ('norm': Layer"
    assert kept in capsys.readouterr().out


def test_own_layers_with_filters_are_named():
    class Own(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = layers.Conv2D(4, 1)

        def build(self, shape):
            self.inner.build(shape)
            self.built = True

        def call(self, x):
            return self.inner(x)

    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 1)(Own(name="own")(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    with pytest.warns(UserWarning, match="1 of 2.*'own': Own is not followed"):
        keras_bimp.prune(
            keras_bimp.wrap(model),
            0.5,
            granularity="filter",
            allocation="coupled",
        )
