"""Multiply-adds for inputs of several sizes, and tables next to kernels."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_bimp
from keras_bimp.metrics import count_macs


def two_sequences():
    a = keras.Input((None,), dtype="int32", name="a")
    b = keras.Input((None,), dtype="int32", name="b")
    table = layers.Embedding(20, 4)
    y = layers.Concatenate(1)(
        [layers.Dense(8)(table(a)), layers.Dense(8)(table(b))]
    )
    y = layers.GlobalAveragePooling1D()(y)
    return keras.Model({"a": a, "b": b}, layers.Dense(2)(y))


def work(steps):
    """Returns multiply-adds of `steps` steps of a dense layer, and the last."""
    return steps * 4 * 8 + 8 * 2


def texts(length=None):
    return keras.Sequential(
        [
            keras.Input((), dtype="string"),
            layers.TextVectorization(
                vocabulary=["good", "bad"], output_sequence_length=length
            ),
            layers.Embedding(20, 4),
            layers.Dense(8),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
        ]
    )


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.parametrize(
    "given",
    [
        {"a": (None, 7), "b": (None, 9)},
        [(None, 7), (None, 9)],
        {"a": np.zeros((3, 7), "int32"), "b": np.zeros((3, 9), "int32")},
    ],
    ids=["dict", "list", "batch"],
)
def test_several_inputs_of_unknown_length(given):
    model = two_sequences()
    with pytest.raises(ValueError, match=r"list or dict of shapes.*a batch of"):
        count_macs(model)
    assert count_macs(model, given).dense == work(16)
    found = keras_bimp.report(
        model, latency=False, input_shape=given, verbose=0
    )
    assert found.dense_macs == work(16)
    assert "Multiply-adds" not in dict(found.missing)


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_the_first_of_the_data_will_do():
    model = two_sequences()
    model.compile(loss="mse")
    x = {"a": np.ones((4, 5), "int32"), "b": np.ones((4, 6), "int32")}
    found = keras_bimp.report(
        model, data=(x, np.zeros((4, 2))), latency=False, verbose=0
    )
    assert found.dense_macs == work(11)


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_a_batch_leaves_the_model_as_it_was():
    x = keras.Input((None, 3))
    y = layers.LSTM(4, stateful=False)(x)
    model = keras.Model(x, layers.Dropout(0.5)(layers.BatchNormalization()(y)))
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in model.variables]
    found = count_macs(model, np.ones((2, 5, 3), "float32"))
    assert found.dense == 5 * (3 + 4) * 16
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(variable), value
        )


def test_a_model_that_fixes_the_size_of_its_batches():
    rng = np.random.default_rng(0)
    x, y = rng.random((8, 2, 5), "float32"), rng.integers(3, size=8)
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(4, 2, 5)),
            layers.BatchNormalization(),
            layers.SimpleRNN(4, stateful=True),
            layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"], run_eagerly=True)
    report = keras_bimp.report(model, data=(x, y), latency=False, verbose=0)
    right = model.predict(x, batch_size=4, verbose=0).argmax(-1) == y
    assert report.metrics["accuracy"][0] == pytest.approx(right.mean())
    keras_bimp.recalibrate_batch_norm(model, x)
    np.testing.assert_allclose(
        np.asarray(model.layers[0].moving_mean), x.mean((0, 1)), rtol=1e-4
    )
    found = keras_bimp.sensitivity(model, (x, y), sparsities=[0.5])
    assert len(found.accuracies) == 3
    model = keras_bimp.wrap(model)
    keras_bimp.prune(model, 0.5, criterion="saliency", data=(x, y))


def test_texts():
    assert count_macs(texts(5), ["good"]).dense == work(5)
    model = texts()
    found = keras_bimp.report(model, latency=False, verbose=0)
    assert found.dense_macs is found.macs is None
    assert all("a batch of examples" in why for _, why in found.not_counted)
    assert len(found.not_counted) == 2
    for batch in (["good", "bad good very bad"], np.array(["a b c d"])):
        assert count_macs(model, batch).dense == work(4)
        found = keras_bimp.report(
            model, latency=False, input_shape=batch, verbose=0
        )
        assert found.dense_macs == work(4)
        assert not found.not_counted


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_tables_that_are_left_out_get_a_word(capsys, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(100, 4, name="words"),
            layers.Dense(50, use_bias=False),
        ]
    )
    wrapped = keras_bimp.wrap(model)
    keras_bimp.prune(wrapped, 0.9, on_collapse="ignore")
    pruned = keras_bimp.strip(wrapped)
    found = keras_bimp.report(
        pruned, latency=False, path=tmp_path / "report.html"
    )
    (kernel,) = found.left_out
    assert kernel.path.endswith("words/embeddings")
    assert found.sparsity == 0.9
    assert found.total_sparsity == pytest.approx(180 / 600)
    printed = " ".join(capsys.readouterr().out.split())
    assert "66.67" in printed
    assert "words/embeddings" in printed
    assert "66.67" in (tmp_path / "report.html").read_text()
    asked = keras_bimp.wrap(pruned, filters=["words"])
    assert not keras_bimp.report(asked, latency=False, verbose=0).left_out
