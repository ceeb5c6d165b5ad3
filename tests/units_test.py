"""`granularity="unit"`: units, heads and filters with all their weights."""

import keras
import numpy as np
import pytest
from helpers import compile_model
from keras import layers
from units_models import assert_same
from units_models import build
from units_models import prune
from units_models import transformer

import keras_bimp
from keras_bimp._src.backends import as_array


def mean(x):
    return layers.GlobalAveragePooling1D()(x)


def gated(x):
    one = layers.Dense(8, activation="silu", name="layer")(x)
    return layers.Dense(3)(one * layers.Dense(8)(x))


def convolved(layer):
    def body(x):
        x = layers.Conv2D(8, 3, padding="same", name="before")(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layer(x)
        return layers.Dense(3)(layers.Flatten()(x))

    return body


def recurrent(kind, **kwargs):
    def body(x):
        y = kind(8, return_sequences=True, name="layer", **kwargs)(x)
        return layers.Dense(3)(kind(4)(y))

    return body


def both_ways(mode):
    def body(x):
        inside = layers.LSTM(8, return_sequences=True, name="inside")
        y = layers.Bidirectional(inside, merge_mode=mode, name="layer")(x)
        return layers.Dense(3)(mean(y))

    return body


def attending(kind, *args, **kwargs):
    def body(x):
        y = kind(*args, name="layer", **kwargs)(x, x)
        return mean(layers.Add()([x, y]))

    return body


MHA, GQA = layers.MultiHeadAttention, layers.GroupQueryAttention
ROWS, IMAGE = (5, 6), (6, 6, 4)
KINDS = {
    # The model, its inputs, and the expected config.
    "dense": (
        lambda x: layers.Dense(3)(
            layers.Dense(8, activation="sigmoid", name="layer")(x)
        ),
        (6,),
        {"units": 4},
    ),
    "einsum": (
        lambda x: layers.Dense(3)(
            layers.EinsumDense("abc,dc->abd", (5, 8), name="layer")(x)
        ),
        ROWS,
        {"output_shape": (5, 4)},
    ),
    "gated": (gated, ROWS, {"units": 4}),
    "convolution": (
        convolved(layers.Conv2D(8, 3, padding="same", name="layer")),
        IMAGE,
        {"filters": 4},
    ),
    "groups": (
        convolved(layers.Conv2D(8, 3, groups=4, name="layer")),
        IMAGE,
        {"filters": 4, "groups": 2},
    ),
    "depthwise": (
        convolved(layers.DepthwiseConv2D(3, padding="same", name="layer")),
        IMAGE,
        {"depth_multiplier": 1},
    ),
    "separable": (
        convolved(layers.SeparableConv2D(8, 3, padding="same", name="layer")),
        IMAGE,
        {"filters": 4},
    ),
    "transposed": (
        convolved(layers.Conv2DTranspose(8, 3, strides=2, name="layer")),
        IMAGE,
        {"filters": 4},
    ),
    "group norm": (
        convolved(layers.GroupNormalization(4, name="layer")),
        IMAGE,
        {"groups": 2},
    ),
    "lstm": (recurrent(layers.LSTM), ROWS, {"units": 4}),
    "lstm without biases": (
        recurrent(layers.LSTM, use_bias=False),
        ROWS,
        {"units": 4, "use_bias": False},
    ),
    "gru": (recurrent(layers.GRU), ROWS, {"units": 4}),
    "gru, reset before": (
        recurrent(layers.GRU, reset_after=False, go_backwards=True),
        ROWS,
        {"units": 4},
    ),
    "simple": (recurrent(layers.SimpleRNN), ROWS, {"units": 4}),
    "both ways, one after the other": (both_ways("concat"), ROWS, {}),
    "both ways, added": (both_ways("sum"), ROWS, {}),
    "attention": (attending(MHA, 4, 3), ROWS, {"num_heads": 2, "key_dim": 3}),
    "attention without biases": (
        attending(MHA, 4, 3, use_bias=False),
        ROWS,
        {"num_heads": 2, "use_bias": False},
    ),
    "attention with gates": (
        attending(MHA, 4, 3, use_gate=True),
        ROWS,
        {"num_heads": 2},
    ),
    "grouped queries": (
        attending(GQA, 3, 8, 4),
        ROWS,
        {"num_query_heads": 4, "num_key_value_heads": 2},
    ),
    "one head of values": (
        attending(GQA, 3, 4, 1, use_gate=True),
        ROWS,
        {"num_query_heads": 2, "num_key_value_heads": 1},
    ),
}


@pytest.mark.slow
@pytest.mark.every_backend
@pytest.mark.parametrize("kind", KINDS)
def test_half_of_a_layer_goes(kind):
    body, shape, left = KINDS[kind]
    model = build(body, shape)
    pruning, pruned = prune(model)
    assert all(2 * some == every for some, every in pruning.units.values())
    small = keras_bimp.shrink(pruned, align=1)
    assert_same(pruned, small)
    config = small.get_layer("layer").get_config()
    assert {name: config[name] for name in left} == left
    assert small.output_shape == model.output_shape
    # Everything pruned is removed: no remaining unit is all zeros.
    again = keras_bimp.wrap(small)
    counts = keras_bimp.prune(again, 0.0, granularity="unit").units
    assert sum(n for n, _ in counts.values()) >= sum(
        n for n, _ in pruning.units.values()
    )
    both = small.get_layer("layer")
    if isinstance(both, layers.Bidirectional):
        assert both.forward_layer.units == both.backward_layer.units == 4


# Keras' attention on JAX does not take values of another size.
@pytest.mark.job("tensorflow", "torch")
def test_values_may_have_another_size_than_keys():
    _, pruned = prune(build(attending(MHA, 4, 3, value_dim=2), ROWS))
    small = keras_bimp.shrink(pruned)
    assert small.get_layer("layer").num_heads == 2
    assert_same(pruned, small)


def heads(kernel, axis):
    other = tuple(i for i in range(3) if i != axis)
    return np.square(kernel).sum(other)


def test_heads_are_ranked_over_all_their_kernels():
    layer = layers.MultiHeadAttention(4, 3, name="attention")
    model = build(lambda x: layers.Dense(2)(layer(x, x)), ROWS)
    scores = np.zeros(4)
    for dense in (layer.query_dense, layer.key_dense, layer.value_dense):
        norms = heads(as_array(dense.kernel), 1)
        scores += norms / norms.mean()
    norms = heads(as_array(layer.output_dense.kernel), 0)
    scores += norms / norms.mean()
    pruning, pruned = prune(model)
    assert pruning.units == {"heads of attention": (2, 4)}
    gone = np.sort(np.argsort(scores)[:2])
    layer = pruned.layers[1]
    for dense in (layer.query_dense, layer.key_dense, layer.value_dense):
        found = np.flatnonzero(heads(as_array(dense.kernel), 1) == 0)
        np.testing.assert_array_equal(found, gone)
    found = np.flatnonzero(heads(as_array(layer.output_dense.kernel), 0) == 0)
    np.testing.assert_array_equal(found, gone)


def test_units_of_an_lstm_go_with_all_gates_rows_and_columns():
    model = build(
        lambda x: layers.Dense(2, name="next")(layers.LSTM(4, name="lstm")(x)),
        ROWS,
    )
    _, pruned = prune(model)
    cell = pruned.get_layer("lstm").cell
    kernel = as_array(cell.kernel).reshape(6, 4, 4)
    recurrent = as_array(cell.recurrent_kernel).reshape(4, 4, 4)
    gone = np.flatnonzero(~kernel.any((0, 1)))
    assert len(gone) == 2
    expected = np.ones((4, 4, 4), bool)
    expected[gone] = expected[:, :, gone] = False
    np.testing.assert_array_equal(recurrent != 0, expected)
    rows = as_array(pruned.get_layer("next").kernel).any(1)
    np.testing.assert_array_equal(np.flatnonzero(~rows), gone)


def test_half_of_a_transformer_goes():
    pruning, pruned = prune(transformer())
    assert pruning.units == {
        "heads of attention0": (2, 4),
        "units of inner0": (8, 16),
        "heads of attention1": (2, 4),
        "units of inner1": (8, 16),
    }
    # Exactly half of each pruned kernel: inputs or outputs.
    wrapped = keras_bimp.wrap(pruned, initial_masks="nonzero")
    for kernel, mask in zip(
        wrapped.wrapper.kernels, wrapped.wrapper.masks, strict=True
    ):
        share = 1.0 if "logits" in kernel.path else 0.5
        assert as_array(mask).mean() == share, kernel.path
    small = keras_bimp.shrink(pruned)
    assert_same(pruned, small)
    assert small.get_layer("outer1").kernel.shape == (8, 8)


def test_what_stays_is_told_why():
    pruning, _ = prune(transformer(blocks=1))
    assert dict(pruning.skipped)["logits/kernel"] == (
        "its units stay: they are outputs of the model"
    )
    model = build(
        lambda x: layers.Dense(2)(
            layers.LayerNormalization(name="norm")(
                layers.Dense(4, name="stays")(layers.Dense(6, name="goes")(x))
            )
        ),
        (5,),
    )
    pruning, pruned = prune(model)
    assert list(pruning.units) == ["units of goes"]
    assert as_array(pruned.get_layer("stays").kernel).any(0).all()
    with pytest.raises(ValueError, match="'norm': LayerNormalization is not"):
        keras_bimp.prune(
            keras_bimp.wrap(model), 0.5, granularity="unit", exclude="goes"
        )


class Own(layers.Layer):
    """An unknown layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)
        self.attention = MHA(2, 2)

    def build(self, shape):
        self.dense.build(shape)
        self.attention.build((*shape[:-1], 4), (*shape[:-1], 4))
        self.built = True

    def call(self, x):
        x = self.dense(x)
        return self.attention(x, x)


def test_own_layers_are_left_alone():
    model = build(
        lambda x: layers.Dense(2)(
            layers.Dense(4, name="last")(Own(name="own")(x))
        ),
        ROWS,
    )
    pruning, pruned = prune(model)
    assert list(pruning.units) == ["units of last"]
    reasons = [why for path, why in pruning.skipped if path.startswith("own")]
    assert len(reasons) == 5
    assert set(reasons) == {"'own': Own is not followed"}
    assert all(as_array(v).all() for v in pruned.get_layer("own").weights)


def test_a_mask_for_each_head_keeps_the_heads():
    inputs, mask = keras.Input(ROWS), keras.Input((4, 5, 5), dtype="bool")
    attention = MHA(4, 2, name="attention")
    x = layers.Dense(6, name="dense")(layers.Dense(8)(inputs))
    x = attention(x, x, attention_mask=mask)
    model = keras.Model([inputs, mask], x)
    pruning, _ = prune(model)
    reason = dict(pruning.skipped)["attention/query/kernel"]
    assert "differs from head to head" in reason


def test_excluded_readers():
    def body(x):
        x = layers.LSTM(4, name="lstm")(x)
        x = layers.Dense(8, "relu", name="dense")(x)
        return layers.Dense(2, name="last")(x)

    # Pruned units of a dense layer are constant: `shrink` moves the constant.
    model = build(body, ROWS)
    pruning, pruned = prune(model, exclude="last")
    assert list(pruning.units) == ["units of lstm", "units of dense"]
    assert as_array(pruned.get_layer("last").kernel).all()
    small = keras_bimp.shrink(pruned, align=1)
    assert small.get_layer("dense").units == 4
    assert_same(pruned, small)
    # Units of an LSTM are not, so they cannot be removed alone.
    why = r"lstm_cell\w*/kernel .its units stay: 'dense/kernel' belongs"
    with pytest.raises(ValueError, match=why):
        prune(build(body, ROWS), exclude="dense")


@pytest.mark.parametrize("allocation", ["coupled", "uniform", "global", "lamp"])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_allocations(allocation, norm):
    wrapped = keras_bimp.wrap(transformer())
    pruning = keras_bimp.prune(
        wrapped,
        0.5,
        allocation=allocation,
        granularity=keras_bimp.selection.Unit(norm),
    )
    left = sum(n for n, _ in pruning.units.values())
    assert left == sum(n for _, n in pruning.units.values()) // 2
    assert_same(
        keras_bimp.strip(wrapped),
        keras_bimp.shrink(keras_bimp.strip(wrapped), align=1),
    )


def test_limits():
    pruning, _ = prune(
        transformer(),
        0.4,
        allocation="uniform",
        layer_sparsity={"inner0": 0.25, "attention0": 0.0},
        max_layer_sparsity=0.75,
    )
    assert pruning.units["units of inner0"] == (12, 16)
    assert pruning.units["heads of attention0"] == (4, 4)
    assert sum(n for n, _ in pruning.units.values()) == 24


@pytest.mark.parametrize("criterion", ["random", "saliency"])
def test_criteria(criterion):
    model = compile_model(keras_bimp.wrap(transformer(blocks=1)))
    x = np.random.default_rng(0).normal(size=(8, 5, 8)).astype("float32")
    given = {"data": (x, np.zeros((8, 5), int))} if criterion[0] == "s" else {}
    pruning = keras_bimp.prune(
        model, 0.5, granularity="unit", criterion=criterion, **given
    )
    assert [n for n, _ in pruning.units.values()] == [2, 8]


def test_no_unit_is_left_to_a_layer():
    model = transformer(blocks=1)
    with pytest.raises(ValueError, match="0 in heads of attention0"):
        prune(model, 0.9, on_collapse="raise")
    pruning, pruned = prune(model, 0.9)
    assert pruning.units["heads of attention0"] == (1, 4)
    assert pruning.protected == ("attention0/query/kernel",)
    assert_same(pruned, keras_bimp.shrink(pruned, align=1))
