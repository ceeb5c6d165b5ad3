"""SavedModels with sparse kernels."""

import concurrent.futures
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from sparse_serving_models import check
from sparse_serving_models import dense_layers
from sparse_serving_models import nested
from sparse_serving_models import operations
from sparse_serving_models import pruned
from sparse_serving_models import saved_model

import keras_bimp
from keras_bimp._src.exporting import sparse_kernels
from keras_bimp._src.exporting.inputs import outputs_of
from keras_bimp._src.exporting.sparse_kernels.contracting import Equation
from keras_bimp._src.exporting.sparse_kernels.products import Product
from keras_bimp._src.exporting.sparse_kernels.products import padded


def attention():
    inputs = keras.Input((None, 16))
    x = layers.MultiHeadAttention(2, 8)(inputs, inputs)
    x = layers.LayerNormalization()(layers.Add()([x, inputs]))
    y = layers.Dense(24, activation="gelu")(x)
    x = layers.Add()([x, layers.Dropout(0.5)(layers.Dense(16)(y))])
    return keras.Model(inputs, layers.GroupQueryAttention(8, 4, 2)(x, x))


def convolutions():
    inputs = keras.Input((11, 9, 4))
    x = layers.Conv2D(8, 1, activation="relu")(inputs)
    x = layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(6, 3, dilation_rate=2, padding="same")(x)
    z = layers.Conv2D(6, (1, 2), padding="same")(x)
    x = layers.ReLU()(layers.Add()([y, z]))
    x = layers.Conv2D(6, 1, strides=2)(x)
    return keras.Model(inputs, layers.Conv2D(3, 2)(x))


def sequences():
    inputs = keras.Input((None, 6))
    x = layers.Conv1D(8, 3, padding="causal", dilation_rate=2)(inputs)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(x)
    x = layers.GRU(5, return_sequences=True, go_backwards=True)(x)
    x = layers.GRU(5, reset_after=False, use_bias=False)(x)
    return keras.Model(inputs, x)


def states():
    """Builds a model with an initial state, a mask, and an unrolled loop."""
    inputs, other = keras.Input((4, 6)), keras.Input((4, 6))
    _, *state = layers.LSTM(5, return_state=True, unroll=True)(other)
    x = layers.Masking()(layers.ReLU()(inputs))
    return keras.Model([inputs, other], layers.LSTM(5)(x, state))


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (dense_layers, 3),
        (attention, 10),
        (convolutions, 6),
        (sequences, 5),
        (states, 2),
        (nested, 3),
    ],
)
def test_outputs_are_those_of_the_model(build, count, tmp_path):
    nodes, exported = check(pruned(build()), tmp_path / "1", count)
    assert sum(c.sparse for c in exported.sparse_kernels.choices) == count
    assert "PyFunc" not in nodes


@pytest.mark.parametrize(
    "equation",
    ["abc,cd->abd", "abc,cde->abed", "abc,bcd->ad", "...c,cde->...ed"],
)
def test_equations_are_products_of_matrices(equation):
    rng = np.random.default_rng(0)
    sizes = dict(zip("abcde", (2, 3, 4, 5, 6), strict=True))
    letters = equation.replace("...", "ab")
    of_x, of_kernel = letters.partition("->")[0].split(",")
    x, kernel = (
        rng.normal(size=[sizes[c] for c in s]) for s in (of_x, of_kernel)
    )
    parsed = Equation(equation)
    assert parsed.is_product
    turned, _ = parsed.of_rank(3)
    order = [turned.index(c) for c in parsed.summed]
    others = [i for i in range(3) if i not in order]
    matrix = parsed.matrix(kernel)
    columns = x.transpose(*order, *others).reshape(matrix.shape[1], -1)
    found = matrix @ columns
    expected = np.einsum(letters, x, kernel)
    np.testing.assert_allclose(
        np.sort(found.ravel()), np.sort(expected.ravel())
    )


@pytest.mark.parametrize(
    "equation", ["abc,bcd->abd", "abc,cd->ad", "abc,->abc", "aab,bc->ac"]
)
def test_other_equations_stay_dense(equation):
    assert not Equation(equation).is_product


def test_a_layer_with_another_equation_stays_dense(tmp_path):
    layer = layers.EinsumDense("abc,bcd->abd", (4, 3))
    model = pruned(keras.Sequential([keras.Input((4, 5)), layer]))
    _, exported = check(model, tmp_path / "1", 0)
    (choice,) = exported.sparse_kernels.choices
    assert not choice.sparse
    assert "product" in choice.reason


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns", [1, 7, 8, 9])
def test_products(dtype, columns):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(5, 6)) * (rng.random((5, 6)) < 0.4)
    x = rng.normal(size=(6, columns)).astype(dtype)
    found = Product(matrix.astype(dtype))(padded(x))
    assert found.shape == (5, -(-columns // 8) * 8)
    np.testing.assert_allclose(found[:, :columns], matrix @ x, rtol=1e-5)
    assert not found[:, columns:].numpy().any()


def test_a_kernel_of_zeros(tmp_path):
    model = pruned(dense_layers())
    model.layers[0].kernel.assign(np.zeros((6, 16)))
    check(model, tmp_path / "1", 3)


def test_activations_are_turned_once(tmp_path):
    hidden = [layers.Dense(16, activation="relu") for _ in range(4)]
    model = pruned(keras.Sequential([keras.Input((6,)), *hidden]))
    keras_bimp.export(
        model, tmp_path / "1", sparse_kernels=True, verbose=0, verify=False
    )
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    function = loaded.signatures["serving_default"]
    # As at run time, without unused operations.
    from tensorflow.python.framework.convert_to_constants import (
        _run_inline_graph_optimization,
    )

    graph = _run_inline_graph_optimization(function, False, True)
    needed, found = {n.name: n for n in graph.node}, set()
    ends = [n.name for n in graph.node if n.name.startswith("Identity")]
    while ends:
        name = ends.pop().split(":")[0].lstrip("^")
        if name in needed and name not in found:
            found.add(name)
            ends.extend(needed[name].input)
    kinds = [needed[name].op for name in found]
    assert kinds.count("SparseMatrixMatMul") == 4
    assert kinds.count("Transpose") == 2


def test_zeros_are_left_away_in_the_file(tmp_path):
    model = pruned(
        keras.Sequential([keras.Input((256,)), layers.Dense(256)]), 0.95
    )
    sizes = []
    for kernels in (False, True):
        path = keras_bimp.export(
            model,
            tmp_path / str(int(kernels)),
            labels=[str(i) for i in range(256)],
            sparse_kernels=kernels,
            verbose=0,
            verify=False,
        )
        sizes.append(sum(f.stat().st_size for f in path.glob("variables/*")))
        _, shapes = operations(path)
        # Once, although there are two signatures.
        assert sorted(shapes) == ([(256,), (256, 256)], [(), (256,)])[kernels]
    assert sizes[1] < 0.15 * sizes[0]


def test_labels_and_warmup_and_signatures(tmp_path):
    model = pruned(dense_layers())
    x = np.random.default_rng(0).normal(size=(9, 6)).astype("float32")

    def logits(x):
        return {"twice": 2 * model(x)}

    check(
        model,
        tmp_path / "1",
        9,
        labels=list("abcd"),
        warmup_data=x,
        signatures={"logits": logits},
    )
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    expected = model.predict(x, verbose=0)
    found = loaded.signatures["classify"](tf.constant(x))
    best = np.array(list("abcd"))[expected.argmax(1)].astype("S")
    assert (found["classes"].numpy()[:, 0] == best).all()
    found = loaded.signatures["logits"](tf.constant(x))["twice"]
    np.testing.assert_allclose(found, 2 * expected, rtol=1e-5, atol=1e-6)
    extra = tmp_path / "1" / "assets.extra"
    assert (extra / "tf_serving_warmup_requests").exists()
    # The model is unchanged.
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)


def test_two_threads_and_a_session(tmp_path):
    model = pruned(attention())
    path = keras_bimp.export(
        model, tmp_path / "1", sparse_kernels=True, verbose=0, verify=False
    )
    rng = np.random.default_rng(0)
    inputs = [
        rng.normal(size=(n, length, 16)).astype("float32")
        for n, length in ((1, 3), (5, 9))
    ]
    expected = [outputs_of(model, [x])[0] for x in inputs]
    loaded = tf.saved_model.load(str(path))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda x: np.array(loaded.serve(x)), inputs * 10))
    for i, y in enumerate(found):
        np.testing.assert_allclose(y, expected[i % 2], rtol=1e-4, atol=1e-5)
    # As TensorFlow Serving runs it, without Python's shapes.
    graph = tf.Graph()
    with tf.compat.v1.Session(graph=graph) as session:
        meta_graph = tf.compat.v1.saved_model.loader.load(
            session, ["serve"], str(path)
        )
        signature = meta_graph.signature_def["serving_default"]
        (given,), (output,) = (
            [value.name for value in side.values()]
            for side in (signature.inputs, signature.outputs)
        )
        for x, y in zip(inputs, expected, strict=True):
            found = session.run(output, {given: x})
            np.testing.assert_allclose(found, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "lengths"),
    [
        (dense_layers, (1, 1000)),
        (attention, (3, 9)),
        (convolutions, (1, 7)),
        (sequences, (2, 11)),
    ],
)
def test_the_loader_of_tensorflow_serving(build, lengths, tmp_path):
    model = pruned(build())
    path = keras_bimp.export(
        model, tmp_path / "1", sparse_kernels=True, verbose=0, verify=False
    )
    rng = np.random.default_rng(0)
    shape = model.inputs[0].shape[1:]
    inputs = [
        # The open size: of the sequence, or else of the batch.
        rng.normal(size=[2, *(n or length for n in shape)])
        if None in shape
        else rng.normal(size=[length, *shape])
        for length in lengths
    ]
    np.savez(tmp_path / "inputs.npz", *inputs)
    signature = saved_model(path).meta_graphs[0].signature_def["serve"]
    (given,), (output,) = (
        [value.name for value in side.values()]
        for side in (signature.inputs, signature.outputs)
    )
    subprocess.run(
        [
            sys.executable,
            pathlib.Path(__file__).parent / "c_loader.py",
            pathlib.Path(tf.__file__).parent,
            path,
            given,
            output,
            tmp_path / "inputs.npz",
            tmp_path / "outputs.npz",
        ],
        check=True,
    )
    found = np.load(tmp_path / "outputs.npz").values()
    for x, y in zip(inputs, found, strict=True):
        (expected,) = outputs_of(model, [x.astype("float32")])
        assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()


def test_it_is_verified_in_a_fresh_process(tmp_path, capsys):
    model = pruned(dense_layers())
    path = keras_bimp.export(model, tmp_path / "1", sparse_kernels=True)
    assert path == tmp_path / "1"
    shown = capsys.readouterr().out
    assert "3 of 3 kernels are sparse" in shown
    assert str(path.sparse_kernels) == shown.rstrip("\n")
    assert sparse_kernels.read(path) == path.sparse_kernels
    assert sparse_kernels.last_choices(model) == path.sparse_kernels
