import keras
import numpy as np
import pytest
from helpers import array
from helpers import compile_model
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import kernels_and_masks
from helpers import lines_with
from helpers import masked
from helpers import wrapped
from keras import layers
from keras import ops
from layer_types import LAYERS
from layer_types import layer_model

import keras_bimp
from keras_bimp._src.masking import find_prunable


@pytest.mark.slow
@pytest.mark.every_backend
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_type(name):
    make, shape, count, size = LAYERS[name]
    model = layer_model(make(), shape)
    x = np.random.default_rng(0).standard_normal((8, *shape)).astype("float32")
    y = model.predict(x, verbose=0)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    wrapped = keras_bimp.wrap(model)
    assert_equal(wrapped.predict(x, verbose=0), y)

    pruning = keras_bimp.prune(wrapped, 0.5)
    assert len(pruning.counts) == count
    assert sum(pruning.counts.values()) == size - round(0.5 * size)
    # The layer computes with the masks, whatever its raw kernels are.
    layer = masked(wrapped)
    for kernel, mask in zip(layer.kernels, layer.masks, strict=True):
        raw = kernel.variable.value
        kernel.variable.assign(ops.where(mask.value, raw, 7.0))
    with_sevens = wrapped.predict(x, verbose=0)
    for kernel, mask in zip(layer.kernels, layer.masks, strict=True):
        raw = kernel.variable.value
        kernel.variable.assign(ops.where(mask.value, raw, 0.0))
    np.testing.assert_array_equal(with_sevens, wrapped.predict(x, verbose=0))

    wrapped.fit(x, y, epochs=2, verbose=0)
    for kernel, mask in kernels_and_masks(wrapped):
        assert (kernel[~mask] == 0).all()
        assert (kernel[mask] != 0).all()
    expected = wrapped.predict(x, verbose=0)
    stripped = keras_bimp.strip(wrapped)
    assert stripped is model
    assert_equal(stripped.predict(x, verbose=0), expected)


def assert_equal(found, expected):
    """Asserts bit-identical arrays, except on torch.

    There, Keras computes an LSTM in another order if its weights are not
    parameters.
    """
    tolerance = 1e-5 if keras.backend.backend() == "torch" else 0
    np.testing.assert_allclose(
        found, expected, rtol=tolerance, atol=tolerance / 10
    )


@pytest.mark.every_backend
@pytest.mark.parametrize("jit_compile", [False, True])
def test_training_with_full_masks_equals_training_without(jit_compile):
    if jit_compile and keras.backend.backend() == "torch":
        pytest.skip("torch.compile rounds otherwise, and takes minutes")

    def model():
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(
                    8, kernel_regularizer="l2", activity_regularizer="l2"
                ),
                layers.BatchNormalization(),
                layers.Dropout(0.3, seed=3),
                layers.Dense(3),
            ]
        )

    plain = compile_model(model(), jit_compile=jit_compile)
    ours = wrapped(model=model(), jit_compile=jit_compile)
    assert fit(plain, 3).history == fit(ours, 3).history
    for theirs, mine in zip(
        plain.weights, masked(ours).layer.weights, strict=True
    ):
        np.testing.assert_array_equal(array(theirs), array(mine))


def test_several_inputs_and_outputs_and_a_shared_layer():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    shared = layers.Dense(3, name="shared")
    first = layers.Dense(2, name="first")(shared(a))
    second = layers.Dense(1, name="second")(shared(b))
    model = keras_bimp.wrap(
        keras.Model({"a": a, "b": b}, {"first": first, "second": second})
    )
    model.compile("sgd", {"first": "mse", "second": "mae"})
    x = {"a": np.ones((8, 4)), "b": np.ones((8, 4))}
    y = {"first": np.ones((8, 2)), "second": np.ones((8, 1))}
    model.fit(x, y, verbose=0)
    assert set(model.predict(x, verbose=0)) == {"first", "second"}
    counts = keras_bimp.prune(model, 0.5).counts
    assert list(counts) == ["shared/kernel", "first/kernel", "second/kernel"]
    assert sum(counts.values()) == 21 - round(10.5)


@keras.saving.register_keras_serializable(package="keras_bimp_tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(8, activation="relu")
        self.drop = layers.Dropout(0.5)
        self.blocks = [layers.Dense(8), keras.Sequential([layers.Dense(3)])]

    def call(self, inputs, training=None):
        x = self.drop(self.hidden(inputs), training=training)
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.every_backend
def test_a_subclassed_model(tmp_path):
    model = Subclassed()
    x, _ = data()
    model(x)
    model = wrapped(model=model)
    assert len(masked(model).kernels) == 3
    fit(model, 2, keras_bimp.callbacks(0.8, dense_epochs=1, verbose=0))
    total = 48 + 64 + 24
    assert keras_bimp.sparsity(model).prunable == round(0.8 * total) / total
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        again.predict(x, verbose=0), model.predict(x, verbose=0)
    )


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_masked_layers_inside_a_model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 4))
    attention = keras_bimp.Masked(layers.MultiHeadAttention(2, 3))
    x = attention(inputs, inputs, use_causal_mask=True)
    x = keras_bimp.Masked(layers.LSTM(3))(layers.Masking()(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    x = np.random.default_rng(0).standard_normal((8, 5, 4))
    model.compile("adam", "mse")
    model.fit(x, np.ones((8, 2)), verbose=0)
    counts = keras_bimp.prune(model, 0.7).counts
    assert len(counts) == 4 + 2
    assert sum(counts.values()) == 96 + 84 - round(0.7 * 180)
    expected = model.predict(x, verbose=0)
    stripped = keras_bimp.strip(model)
    assert not keras_bimp._src.masking.masked_layers(stripped)
    np.testing.assert_array_equal(stripped.predict(x, verbose=0), expected)


def test_wrap_keeps_the_optimizer_object_and_its_slots():
    plain = compile_model(dense_model())
    fit(plain, 2)
    optimizer = plain.optimizer
    before = [array(v) for v in optimizer.variables]
    model = keras_bimp.wrap(plain)
    assert model.optimizer is optimizer
    for variable, value in zip(optimizer.variables, before, strict=True):
        np.testing.assert_array_equal(array(variable), value)
    fit(model, 1)
    assert int(optimizer.iterations) == 3 * 4


def test_masks_of_todays_zeros_survive_training():
    model = compile_model(dense_model())
    fit(model, 1)  # The momentum is not 0.
    kernel = model.layers[0].kernel
    value = array(kernel)
    kernel.assign(np.where(np.abs(value) < 0.3, 0.0, value))
    zeros = array(kernel) == 0
    assert 0 < zeros.sum() < zeros.size
    fit(keras_bimp.wrap(model, initial_masks="nonzero"), 2)
    np.testing.assert_array_equal(array(kernel) == 0, zeros)


def test_filters_choose_layers():
    for filters in (
        "^dense_b$",
        ["nothing", "_b"],
        lambda x: x.name == "dense_b",
    ):
        model = keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(3, name="dense_a"),
                layers.Dense(2, name="dense_b"),
            ]
        )
        layer = masked(keras_bimp.wrap(model, filters=filters))
        assert [k.layer.name for k in layer.kernels] == ["dense_b"]
        ((path, reason),) = layer.skipped
        assert path == model.layers[0].kernel.path
        assert "`filters`" in reason


def test_embeddings_only_when_asked_for():
    def model():
        return keras.Sequential(
            [keras.Input((3,)), layers.Embedding(9, 4), layers.Dense(2)]
        )

    assert len(masked(keras_bimp.wrap(model())).kernels) == 1
    asked = masked(keras_bimp.wrap(model(), filters="embedding"))
    assert [k.size for k in asked.kernels] == [36]


def test_a_layer_declares_what_is_prunable():
    class Declares(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(shape[-1], 4), name="table")
            self.kernel = self.add_weight(shape=(4, 4), name="kernel")

        @property
        def prunable_weights(self):
            return [self.table]

        def call(self, x):
            return x @ self.table @ self.kernel

    model = keras.Sequential([keras.Input((5,)), Declares()])
    layer = masked(keras_bimp.wrap(model))
    assert [k.variable.name for k in layer.kernels] == ["table"]


@pytest.mark.parametrize(
    "filters", ["^chosen$", lambda x: isinstance(x, layers.LSTM)]
)
def test_a_filter_that_matches_a_layer_brings_those_inside_it(filters):
    model = keras.Sequential(
        [keras.Input((5, 4)), layers.LSTM(3, name="chosen"), layers.Dense(2)]
    )
    assert len(masked(keras_bimp.wrap(model, filters=filters)).kernels) == 2


def test_frozen_layers_stay_and_are_listed():
    model = dense_model()
    model.layers[0].trainable = False
    layer = masked(keras_bimp.wrap(model))
    assert [k.layer for k in layer.kernels] == [model.layers[-1]]
    assert layer.skipped == ((model.layers[0].kernel.path, "frozen"),)


def test_output_units():
    units = {
        name: [
            k.output_units
            for k in find_prunable(layer_model(make(), shape)).kernels
        ]
        for name, (make, shape, *_) in LAYERS.items()
    }
    assert units["Conv2D"] == [4]
    assert units["Conv2DTranspose"] == [3]
    assert units["DepthwiseConv2D"] == [4]
    assert units["SeparableConv2D"] == [4, 3]
    assert units["LSTM"] == [12, 12]
    assert units["EinsumDense"] == [6]
    assert units["MultiHeadAttention"] == [6, 6, 6, 4]


def test_pruned_entries_leak_no_nan():
    rule = keras_bimp.masking.Hard()
    mask = ops.convert_to_tensor([True, False, False])
    kernel = ops.convert_to_tensor([2.0, float("nan"), float("inf")])
    effective = rule.effective_kernel(kernel, mask)
    np.testing.assert_array_equal(effective, [2.0, 0.0, 0.0])


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_a_stateful_layer_keeps_its_state():
    def model():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((5, 4), batch_size=2)
        return keras.Model(inputs, layers.LSTM(3, stateful=True)(inputs))

    x = np.random.default_rng(0).standard_normal((2, 5, 4)).astype("float32")
    plain, ours = model(), keras_bimp.wrap(model())
    for _ in range(3):
        expected = plain.predict(x, verbose=0)
        assert_equal(ours.predict(x, verbose=0), expected)
    if keras.backend.backend() == "jax":
        pytest.skip("Keras keeps no state from batch to batch in `predict`")
    assert np.abs(plain.predict(x, verbose=0) - expected).max() > 0


def test_a_model_called_with_two_tensors():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x, y, training=None):
            return self.dense(x) + y

    model = Two()
    x, y = np.ones((3, 4), "float32"), np.ones((3, 2), "float32")
    expected = ops.convert_to_numpy(model(x, y))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(keras_bimp.wrap(model)(x, y)), expected
    )


def test_strip_reaches_into_nested_models():
    inner = keras.Sequential(
        [keras.Input((4,)), keras_bimp.Masked(layers.Dense(3))]
    )
    base = keras_bimp.wrap(
        keras.Sequential([keras.Input((3,)), layers.Dense(3)])
    )
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(base(inner(inputs))))
    keras_bimp.prune(model, 0.5)
    x = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")
    expected = model.predict(x, verbose=0)
    stripped = keras_bimp.strip(model)
    assert not keras_bimp._src.masking.masked_layers(stripped)
    np.testing.assert_array_equal(stripped.predict(x, verbose=0), expected)


def test_strip_refuses_what_it_cannot_rebuild():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras_bimp.Masked(layers.Dense(3))

        def call(self, x):
            return self.dense(x)

    model = Own()
    model(np.ones((2, 4), "float32"))
    keras_bimp.prune(model, 0.5)
    with pytest.raises(ValueError, match=r"`model`.*strip\(layer\)"):
        keras_bimp.strip(model)


def test_a_kernel_under_two_masks_is_refused():
    shared = layers.Dense(4)
    inputs = keras.Input((4,))
    for outputs in (
        keras_bimp.Masked(shared)(keras_bimp.Masked(shared)(inputs)),
        shared(keras_bimp.Masked(shared)(inputs)),
    ):
        model = keras.Model(inputs, outputs)
        with pytest.raises(ValueError, match=r"`Masked`.*/kernel"):
            keras_bimp.prune(model, 0.5)


def test_a_wrapped_model_cannot_be_quantized():
    with pytest.raises(ValueError, match=r"`keras_bimp\.strip\("):
        keras_bimp.wrap(dense_model()).quantize("int8")


def test_a_stripped_mixed_float16_model_loads_without_a_warning(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compile_model(keras_bimp.wrap(dense_model()))
        fit(model, 1)
        keras_bimp.strip(model).save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        x, y = data()
        assert again.evaluate(x, y, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")


def test_mixed_precision_keeps_each_layers_own_dtype():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = dense_model()
        model.add(layers.Dense(2, dtype="float32"))
        x, _ = data()
        before = model.predict(x, verbose=0)
        after = keras_bimp.wrap(model).predict(x, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")

    if keras.backend.backend() == "jax":
        # XLA keeps more digits than bfloat16 has where it fuses operations.
        np.testing.assert_allclose(after, before, rtol=0.03)
    else:
        np.testing.assert_array_equal(after, before)


def test_summary_shows_the_layers_inside_and_the_sparsity():
    model = wrapped()
    keras_bimp.prune(model, 0.5)
    lines = []
    model.summary(print_fn=lines.append)
    text = "\n".join(lines)
    assert text.count("(Dense)") == 2
    assert lines_with(text, "72", "2", "36", "50.00%")
    assert model.get_layer(index=0).name in text


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_a_rule_with_trainable_variables(tmp_path, capsys):
    model = keras_bimp.wrap(compile_model(dense_model()), rule=SoftThreshold())
    assert lines_with(capsys.readouterr().out, "keras_bimp.wrap", "optimizer")
    fit(model, 2)
    layer = masked(model)
    assert len(layer.trainable_variables) == 6 + 2
    assert all(array(rule.threshold) != 0.1 for rule in layer.rules)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x, y = data()
    expected = model.predict(x, verbose=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    penalty = sum(0.01 * array(rule.threshold) ** 2 for rule in layer.rules)
    assert model.evaluate(x, y, verbose=0)[0] == pytest.approx(
        float(loss(y, expected)) + penalty, rel=1e-6
    )
    np.testing.assert_array_equal(again.predict(x, verbose=0), expected)
    stripped = keras_bimp.strip(model)
    np.testing.assert_array_equal(stripped.predict(x, verbose=0), expected)
    assert keras_bimp.sparsity(stripped).prunable > 0


@keras.saving.register_keras_serializable(package="keras_bimp_tests")
class SoftThreshold(keras_bimp.masking.Rule):
    def build(self, masked, kernel):
        self.threshold = masked.add_weight(
            shape=(), initializer=keras.initializers.Constant(0.1)
        )

    def effective_kernel(self, kernel, mask):
        shrunk = ops.relu(ops.abs(kernel) - self.threshold.value)
        return ops.sign(kernel) * ops.where(mask, shrunk, 0.0)

    def loss(self):
        return 0.01 * ops.square(self.threshold.value)
