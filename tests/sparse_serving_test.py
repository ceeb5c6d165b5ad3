"""SavedModels with sparse kernels."""

import concurrent.futures
import errno
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from jobs import first_and_slow
from keras import layers

import keras_bimp
from keras_bimp._src.exporting import sparse_kernels
from keras_bimp._src.exporting.inputs import outputs_of
from keras_bimp._src.exporting.sparse_kernels import measured_choice as choosing
from keras_bimp._src.exporting.sparse_kernels.contracting import Equation
from keras_bimp._src.exporting.sparse_kernels.products import Product
from keras_bimp._src.exporting.sparse_kernels.products import padded


def pruned(model, sparsity=0.8, seed=0):
    """Sets random weights, with a fraction of zeros."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if not keras.backend.is_float_dtype(variable.dtype):
            continue
        values = rng.uniform(0.2, 0.6, variable.shape)
        if "variance" not in variable.path:
            values *= rng.choice([-1, 1], variable.shape)
        if variable.name.endswith("kernel"):
            values *= rng.random(variable.shape) >= sparsity
        variable.assign(values)
    return model


def saved_model(path):
    """Returns the protocol buffer of a SavedModel."""
    from tensorflow.core.protobuf import saved_model_pb2

    return saved_model_pb2.SavedModel.FromString(
        (path / "saved_model.pb").read_bytes()
    )


def operations(path):
    """Returns a SavedModel's operations, and its variables' shapes."""
    graph = saved_model(path).meta_graphs[0].graph_def
    nodes = [n.op for f in graph.library.function for n in f.node_def]
    nodes += [n.op for n in graph.node]
    known = {f.signature.name for f in graph.library.function}
    assert {*nodes} <= {*dir(tf.raw_ops), *known, "VarHandleOp", "Const"}
    stored = tf.train.list_variables(str(path / "variables" / "variables"))
    return nodes, [tuple(s) for n, s in stored if "VARIABLE_VALUE" in n]


def served(path, *inputs):
    loaded = tf.saved_model.load(str(path))  # Keeps the variables alive.
    outputs = loaded.serve(inputs[0] if len(inputs) == 1 else [*inputs])
    return [np.array(y) for y in tf.nest.flatten(outputs)]


def check(model, path, count, **kwargs):
    """Exports a model, and compares outputs for several batch sizes.

    Returns:
        The operations, and the result of `export`.
    """
    kwargs = {"sparse_kernels": True, "verbose": 0, "verify": False, **kwargs}
    exported = keras_bimp.export(model, path, **kwargs)
    nodes, _ = operations(exported)
    assert nodes.count("SparseMatrixMatMul") == count
    rng = np.random.default_rng(1)
    for batch in (1, 3, 8):
        inputs = [
            rng.standard_normal((batch, *(n or 5 for n in x.shape[1:]))).astype(
                "float32"
            )
            for x in model.inputs
        ]
        found, expected = served(exported, *inputs), outputs_of(model, inputs)
        for y, other in zip(found, expected, strict=True):
            assert np.abs(y - other).max() <= 1e-5 * np.abs(other).max()
    return nodes, exported


def dense_layers():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(16, activation="relu"),
            layers.Dense(12, use_bias=False),
            layers.BatchNormalization(),
            layers.LeakyReLU(),
            layers.Dense(4, activation="softmax"),
        ]
    )


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


def nested():
    inside = keras.Sequential([layers.Dense(8), layers.Dense(6, "tanh")])
    return keras.Sequential(
        [
            keras.Input((4, 5)),
            layers.TimeDistributed(inside),
            keras.Sequential([layers.EinsumDense("abc,cd->abd", (4, 3))]),
        ]
    )


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


def times(monkeypatch, ratio):
    """Makes sparse kernels seem faster by a ratio."""
    monkeypatch.setattr(
        choosing,
        "in_turns",
        lambda functions, *_: np.array([[ratio(functions)] * 3, [1.0] * 3]),
    )


def test_auto_takes_what_is_faster_at_every_size(tmp_path, monkeypatch):
    def ratio(functions):
        (x,) = functions[0].args
        if x.shape[-1] == 12 and len(x) > 1:  # The third.
            return 0.5
        return 3.0 if x.shape[-1] == 16 and len(x) > 1 else 1.2

    times(monkeypatch, ratio)
    model = pruned(dense_layers())
    model.layers[0].kernel.assign(np.ones((6, 16)))
    _, exported = check(
        model, tmp_path / "1", 1, sparse_kernels="auto", batch_sizes=[1, 9]
    )
    first, second, third = exported.sparse_kernels.choices
    assert (first.sparse, second.sparse, third.sparse) == (False, True, False)
    assert third.speedups == {1: 1.2, 9: 0.5}
    assert first.speedups == {}
    assert second.speedups == {1: 1.2, 9: 3.0}
    assert exported.sparse_kernels.speedups == {1: 1.2, 9: 1.2}
    assert (second.shape, second.kernel) == (
        (16, 12),
        model.layers[1].kernel.path,
    )
    known = json.loads(
        (exported / "assets.extra" / "sparse_kernels.json").read_text()
    )
    assert known["choices"][1]["speedups"] == {"1": 1.2, "9": 3.0}


@pytest.mark.parametrize("slower", ["kernels", "model"])
def test_auto_stays_dense_where_sparse_is_slower(tmp_path, monkeypatch, slower):
    model = pruned(dense_layers())

    times(monkeypatch, lambda _: 0.7 if slower == "kernels" else 2.0)
    monkeypatch.setattr(
        choosing, "_speedups_of_model", lambda *_: {1: 2.0, 9: 0.98}
    )
    _, exported = check(
        model, tmp_path / "1", 0, sparse_kernels="auto", batch_sizes=(1, 9)
    )
    assert "No kernel is sparse" in str(exported.sparse_kernels)
    reasons = {c.reason for c in exported.sparse_kernels.choices}
    assert reasons == {"not faster at every batch size"}


def test_auto_measures(tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "_ROUNDS", (1, 1))
    monkeypatch.setattr(choosing, "_ROUNDS_OF_MODELS", (1, 1))
    monkeypatch.setattr(choosing, "_LEAST", (0.0, 0.0))
    monkeypatch.setattr(choosing, "_LEAST_OF_MODELS", 0.0)
    model = pruned(nested())
    exported = keras_bimp.export(
        model, tmp_path / "1", sparse_kernels="auto", verbose=0, verify=False
    )
    for choice in exported.sparse_kernels.choices:
        assert [*choice.speedups] == [1, 32]
        assert all(ratio > 0 for ratio in choice.speedups.values())


def test_a_dense_model_stays_dense(tmp_path):
    _, exported = check(
        pruned(dense_layers(), 0.1), tmp_path / "1", 0, sparse_kernels="auto"
    )
    assert "No kernel is sparse" in str(exported.sparse_kernels)
    assert {c.reason for c in exported.sparse_kernels.choices} == {
        "less than half zeros"
    }


@pytest.mark.every_backend
@pytest.mark.parametrize("kernels", first_and_slow([True, "auto"], [True]))
def test_from_every_backend(kernels, tmp_path):
    model = pruned(dense_layers())
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    path = keras_bimp.export(
        model,
        tmp_path / "1",
        sparse_kernels=kernels,
        batch_sizes=(1,),
        verbose=0,
        verify=False,
    )
    choices = path.sparse_kernels.choices
    if kernels == "auto":
        assert all([*c.speedups] == [1] for c in choices)
    else:
        assert all(choice.sparse for choice in choices)
    loaded = tf.saved_model.load(str(path))
    found = loaded.serve(tf.constant(x))
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"sparse_kernels": "all"}, r"`sparse_kernels`.*'all'"),
        ({"batch_sizes": ()}, "`batch_sizes`"),
        ({"batch_sizes": (1, 0)}, "`batch_sizes`.*0"),
        ({"batch_sizes": 8}, "`batch_sizes`.*8"),
        ({"format": "onnx", "sparse_kernels": True}, "`sparse_kernels`"),
    ],
)
def test_bad_arguments(arguments, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        keras_bimp.export(dense_layers(), tmp_path / "1", **arguments)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite(tmp_path):
    model = pruned(dense_layers())
    model.layers[0].kernel.assign(np.full((6, 16), np.nan))
    with pytest.raises(ValueError, match=r"`model`.*kernel"):
        keras_bimp.export(model, tmp_path / "1", sparse_kernels=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["float16", "mixed_bfloat16"])
def test_types_without_a_sparse_product(dtype, tmp_path):
    layer = layers.Dense(4, dtype=dtype)
    model = pruned(keras.Sequential([keras.Input((6,)), layer]))
    with pytest.raises(ValueError, match=r"`sparse_kernels`.*float16.*dense"):
        keras_bimp.export(model, tmp_path / "1", sparse_kernels=True)
    assert not list(tmp_path.iterdir())
    path = keras_bimp.export(
        model, tmp_path / "1", sparse_kernels="auto", verbose=0, verify=False
    )
    (choice,) = path.sparse_kernels.choices
    assert not choice.sparse
    assert "float16" in choice.reason


def test_float64(tmp_path):
    layer = layers.Dense(4, dtype="float64")
    model = pruned(keras.Sequential([keras.Input((6,)), layer]))
    check(model, tmp_path / "1", 1)


def test_a_compiled_signature_is_refused(tmp_path):
    model = pruned(dense_layers())

    @tf.function(jit_compile=True)
    def compiled(x):
        return model(x)

    signatures = {"quick": lambda x: compiled(x) + 1}
    with pytest.raises(ValueError, match=r"`signatures`.*'quick'.*jit_compile"):
        keras_bimp.export(
            model, tmp_path / "1", signatures=signatures, sparse_kernels=True
        )
    assert not list(tmp_path.iterdir())
    keras_bimp.export(
        model,
        tmp_path / "1",
        signatures={"other": tf.function(lambda x: x + 1, jit_compile=True)},
        sparse_kernels=True,
        verbose=0,
        verify=False,
    )


def test_a_full_disk_leaves_nothing(tmp_path):
    import resource

    model = pruned(keras.Sequential([keras.Input((512,)), layers.Dense(512)]))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="`filepath`") as raised:
            keras_bimp.export(model, tmp_path / "1", sparse_kernels=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())
