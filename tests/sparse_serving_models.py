"""Models that are exported with sparse kernels."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_bimp
from keras_bimp._src.exporting.inputs import outputs_of


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


def nested():
    inside = keras.Sequential([layers.Dense(8), layers.Dense(6, "tanh")])
    return keras.Sequential(
        [
            keras.Input((4, 5)),
            layers.TimeDistributed(inside),
            keras.Sequential([layers.EinsumDense("abc,cd->abd", (4, 3))]),
        ]
    )
