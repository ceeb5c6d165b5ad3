"""Each format runs in its own runtime and computes what the model does."""

import pathlib
import re
import sys
import tarfile

import keras
import numpy as np
import pytest
from helpers import dense_model
from keras import layers
from keras import ops

import keras_bimp
from keras_bimp._src.exporting import runtimes
from keras_bimp._src.exporting.inputs import input_names
from keras_bimp._src.exporting.inputs import outputs_of
from keras_bimp._src.exporting.inputs import tried_inputs
from keras_bimp.exporting import load_packed

STUDY = pathlib.Path(__file__).parent.parent / "examples" / "study"
NAMES = {"litert": "m.tflite", "onnx": "m.onnx", "openvino": "m.xml"}
formats = pytest.mark.parametrize("format", NAMES)


def prune(model, sparsity=0.9):
    wrapped = keras_bimp.wrap(model)
    keras_bimp.prune(wrapped, sparsity, optimizer=keras.optimizers.SGD())
    return keras_bimp.strip(wrapped)


def convolutional_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 1, activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def two_inputs():
    """Builds a model whose inputs are not in the order of their names."""
    b, a = keras.Input((2,), name="b"), keras.Input((3,), name="a")
    y = layers.Dense(2)(layers.Concatenate()([a, b]))
    return keras.Model([b, a], [y, layers.Dense(3)(b)])


def attention():
    """Builds attention with GELU, which is 1 - erf in TensorFlow."""
    x = keras.Input((5, 8))
    y = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    return keras.Model(x, layers.Dense(3, activation="gelu")(y))


@formats
@pytest.mark.parametrize(
    "make",
    [
        convolutional_model,
        pytest.param(two_inputs, marks=pytest.mark.slow),
        pytest.param(attention, marks=pytest.mark.slow),
    ],
)
def test_it_runs(format, make, tmp_path):
    model = prune(make(), 0.4)
    path = keras_bimp.export(
        model, tmp_path / NAMES[format], format, tolerance=1e-5
    )
    assert not list(tmp_path.glob("*unfinished*"))
    # With another size of batch.
    inputs = [np.repeat(x, 3, axis=0)[:7] for x in tried_inputs(model)[0]]
    found = runtimes.run(format, str(path), inputs, input_names(model), [])
    for y, expected in zip(found, outputs_of(model, inputs), strict=True):
        off = np.abs(y - expected).max() / np.abs(expected).max()
        assert off < 1e-5


@pytest.mark.parametrize("size", [(4, 3), (None, None)])
def test_images_are_upsampled_in_litert(size, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((*size, 2)),
            layers.Conv2DTranspose(3, 3, padding="same"),
            layers.UpSampling2D(2),
            layers.UpSampling2D((5, 3)),
            layers.Conv2D(4, 1),
            layers.UpSampling2D((41, 2)),
        ]
    )
    x = np.random.default_rng(0).normal(size=(2, 4, 3, 2)).astype("float32")
    expected = model.predict(x, verbose=0)
    path = keras_bimp.export(
        model, tmp_path / "m.tflite", "litert", example_data=x, verbose=0
    )
    (found,) = runtimes.run("litert", str(path), [x], input_names(model), [])
    assert found.shape == (2, 4 * 10 * 41, 3 * 12, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)


class Distances(layers.Layer):
    """Adds the signs of the distances between positions."""

    def call(self, x):
        positions = ops.arange(ops.shape(x)[1], dtype="int64")
        signs = ops.sign(positions[:, None] - positions[None])
        return ops.matmul(ops.cast(signs, x.dtype), x)


@pytest.mark.parametrize("named", [False, True])
def test_fixed_sizes_are_advised_and_help(named, tmp_path):
    """Checks that the code in the message does."""
    inputs = keras.Input((None,), dtype="int32", name="tokens")
    y = layers.Dense(2)(Distances()(layers.Embedding(9, 4)(inputs)))
    model = keras.Model({"tokens": inputs} if named else inputs, y)
    path = tmp_path / "m.tflite"
    with pytest.raises(ValueError, match=r"Sign.* fixed sizes") as raised:
        keras_bimp.export(model, path, "litert", verbose=0)
    code = re.search(r"`x = (.*); (keras.*)`", str(raised.value))
    known = {"keras": keras, "model": model}
    known["x"] = eval(code[1], known)
    keras_bimp.export(eval(code[2], known), path, "litert", verbose=0)
    assert path.exists()


def outputs_twice():
    """TensorFlow renames and reorders its inputs."""
    b, a = keras.Input((2,), name="b-1"), keras.Input((3,), name="a.1")
    y = layers.Dense(2)(layers.Concatenate()([a, b]))
    return keras.Model([b, a], [y, y, a, b, keras.ops.relu(y), y])


@pytest.mark.slow
def test_an_output_may_be_there_twice(tmp_path):
    model = outputs_twice()
    inputs, names = tried_inputs(model)[0], input_names(model)
    # What it writes is compared with the model.
    path = keras_bimp.export(model, tmp_path / "m.xml", "openvino")
    found = runtimes.run("openvino", str(path), inputs, names, [])
    assert [y.shape[1] for y in found] == [2, 2, 3, 2, 2, 2]
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    model = keras.Model([b, a], {"x": a, "a": a, "d": b, "y": b + a})
    keras_bimp.export(model, tmp_path / "n.xml", "openvino")


@pytest.mark.slow
@formats
def test_grouped_convolutions(format, tmp_path):
    """Keras compiles them with TensorFlow."""
    x = keras.Input((6, 6, 4))
    y = layers.Conv2D(8, 3, groups=2)(x)
    if format != "litert":
        y = layers.Reshape((4, 4, 4, 2))(y)
        y = layers.Conv3D(4, 2, groups=2)(y)
    # What it writes is compared with the model.
    keras_bimp.export(keras.Model(x, y), tmp_path / NAMES[format], format)


def test_operations_that_onnx_lacks_are_named(tmp_path):
    x = keras.Input((4,))
    model = keras.Model(x, keras.ops.erfinv(x))
    with pytest.raises(ValueError, match=r"format='onnx'.*Erfinv"):
        keras_bimp.export(model, tmp_path / "m.onnx", "onnx", verify=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.every_backend
def test_other_backends_write_plain_operations(tmp_path):
    model = prune(convolutional_model())
    path = keras_bimp.export(model, tmp_path / "m.xml", "openvino")
    text = path.read_text()
    assert 'type="Convolution"' in text
    assert path.with_suffix(".bin").exists()


@pytest.mark.slow
@pytest.mark.job("jax")
def test_errors_come_back_from_the_other_process(tmp_path):
    x = keras.Input((4,))
    model = keras.Model(x, keras.ops.erfinv(layers.Dense(2)(x)))
    with pytest.raises(ValueError, match=r"`model`.*LiteRT"):
        keras_bimp.export(model, tmp_path / "m.tflite", "litert", verify=False)
    (tmp_path / "m.bin").touch()
    with pytest.raises(ValueError, match=r"`filepath`.*m\.bin"):
        keras_bimp.export(model, tmp_path / "m.xml", "openvino")
    assert [p.name for p in tmp_path.iterdir()] == ["m.bin"]


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32").reshape(-1, 8, 8, 1)
    wrapped = keras_bimp.wrap(convolutional_model())
    wrapped.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    callbacks = keras_bimp.callbacks(0.8, dense_epochs=5, verbose=0)
    wrapped.fit(x[:1400], y[:1400], epochs=8, verbose=0, callbacks=callbacks)
    return keras_bimp.strip(wrapped), (x[:1400], y[:1400]), (x[1400:], y[1400:])


@pytest.mark.slow
def test_eight_bits_are_as_accurate(digits, tmp_path):
    model, (x_train, _), (x, y) = digits
    path = keras_bimp.export(
        model,
        tmp_path / "m.tflite",
        "litert",
        quantize="int8",
        calibration_data=x_train[:200],
    )
    (found,) = runtimes.run("litert", str(path), [x], [None], [])
    accuracy = (found.argmax(axis=1) == y).mean()
    expected = (model.predict(x, verbose=0).argmax(axis=1) == y).mean()
    assert expected > 0.85
    assert abs(accuracy - expected) <= 0.01
    floats = keras_bimp.export(model, tmp_path / "floats.tflite", "litert")
    assert path.stat().st_size < floats.stat().st_size
    (found,) = runtimes.run("litert", str(floats), [x], [None], [])
    expected = outputs_of(model, [x])[0]
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_eight_bits_are_not_sparse_without_a_run(tmp_path):
    with pytest.raises(ValueError, match=r"`sparse_tensors`.*int8"):
        keras_bimp.export(
            convolutional_model(),
            tmp_path / "m.tflite",
            "litert",
            quantize="int8",
            calibration_data=np.zeros((4, 8, 8, 1)),
            sparse_tensors=True,
            verify=False,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("granularity", ["1x4", "weight"])
def test_a_file_says_what_is_sparse_in_it(granularity, tmp_path, capsys):
    hidden = keras.layers.Dense(64, activation="relu")
    model = keras_bimp.wrap(
        keras.Sequential([keras.Input((64,)), hidden, keras.layers.Dense(32)])
    )
    keras_bimp.prune(model, 0.9, granularity=granularity, allocation="uniform")
    model = keras_bimp.strip(model)
    if granularity == "1x4":
        for kernel in (layer.kernel.numpy() for layer in model.layers):
            runs = kernel.reshape(-1, 4, kernel.shape[1]) != 0
            assert (runs.all(1) == runs.any(1)).all()
    path = tmp_path / "m.tflite"
    exported = keras_bimp.export(
        model, path, "litert", sparse_tensors=True, verify=False
    )
    first, second = exported.sparse_kernels.choices
    assert (first.shape, second.shape) == ((64, 64), (32, 64))
    for choice in (first, second):
        assert choice.sparse == (granularity == "1x4")
        assert ("DENSIFY" in choice.reason) == (granularity == "weight")
        assert abs(choice.sparsity - 0.9) < 0.01
    said = {"1x4": "2 of 2 kernels", "weight": "No kernel is sparse"}
    assert said[granularity] in capsys.readouterr().out
    # LiteRT itself lists the operations in the file.
    from ai_edge_litert.interpreter import Interpreter

    found = Interpreter(str(path))._get_ops_details()
    densified = sum(op["op_name"] == "DENSIFY" for op in found)
    assert densified == (2 if granularity == "weight" else 0)


@pytest.mark.parametrize(
    ("first", "strides", "strided", "size", "right"),
    [
        ("explicit", (1, 2), "same", 16, False),
        ("explicit", (1, 2), "same", 17, True),
        ("explicit", (1, 2), "explicit", 16, True),
        ("explicit", (2, 1), "same", 16, True),
        ("same", (1, 2), "same", 16, True),
    ],
)
def test_what_arm_would_compute_wrongly_is_refused(
    tmp_path, first, strides, strided, size, right
):
    """As seen there; findings/ has a script that shows it."""

    def convolution(x, layer, padding):
        if padding == "explicit":
            x, layer.padding = keras.layers.ZeroPadding2D(1)(x), "valid"
        return layer(x)

    inputs = keras.Input((size, size, 3))
    x = convolution(
        inputs, keras.layers.Conv2D(16, 3, 2, padding="same"), first
    )
    pointwise = []
    for stride in strides:
        layer = keras.layers.DepthwiseConv2D(3, stride, padding="same")
        x = convolution(x, layer, strided if stride == 2 else "same")
        pointwise.append(keras.layers.Conv2D(32, 1))
        x = pointwise[-1](x)
    outputs = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, outputs)
    for layer in pointwise:
        kernel = layer.kernel
        zeros = np.random.default_rng(0).uniform(size=kernel.shape) < 0.9
        kernel.assign(np.where(zeros, 0, kernel.numpy()))
    path = tmp_path / "m.tflite"

    def export():
        return keras_bimp.export(model, path, "litert", sparse_tensors=True)

    if right:
        export()
        return
    with pytest.raises(ValueError, match=r"`sparse_tensors`.*ZeroPadding2D"):
        export()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_sparse_tensors_are_smaller(digits, tmp_path):
    model, *_ = digits
    sizes = [
        keras_bimp.export(
            model,
            tmp_path / f"{sparse}.tflite",
            "litert",
            sparse_tensors=sparse,
            verify=False,
        )
        .stat()
        .st_size
        for sparse in (False, True)
    ]
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.slow
def test_a_large_network_is_small(tmp_path, monkeypatch):
    """Keras' export, which writes each weight twice, takes 1.08 MB."""
    monkeypatch.syspath_prepend(str(STUDY))
    import networks

    model = networks.resnet56()
    assert model.count_params() == 857_082
    rng = np.random.default_rng(0)
    for variable in model.variables:  # As after training, all are different.
        if not variable.path.endswith("kernel"):
            noise = rng.uniform(0.9, 1.1, variable.shape)
            variable.assign(noise * (variable.numpy() + 0.01))
    model = prune(model)
    packed = keras_bimp.export(model, tmp_path / "m.packed", "packed")
    assert packed.stat().st_size <= 450_000
    again = load_packed(packed)
    for a, b in zip(model.weights, again.weights, strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()
    path = keras_bimp.export(model, tmp_path / "1", verify=False)
    with tarfile.open(tmp_path / "1.tar.gz", "w:gz") as archive:
        archive.add(path, "1")
    assert (tmp_path / "1.tar.gz").stat().st_size <= 750_000


@pytest.mark.parametrize(
    ("format", "name", "package", "command"),
    [
        ("onnx", "m.onnx", "tf2onnx", r'"keras_bimp\[onnx\]"'),
        ("openvino", "m.xml", "openvino", r'"keras_bimp\[openvino\]"'),
        ("tf_saved_model", "1", "tensorflow_serving", "--no-deps tensorflow-s"),
    ],
)
def test_missing_packages_are_named(
    format, name, package, command, tmp_path, monkeypatch
):
    hide(monkeypatch, package)
    given = {"warmup_data": np.ones((1, 6))} if name == "1" else {}
    with pytest.raises(ImportError, match=f"{package}.*pip install {command}"):
        keras_bimp.export(dense_model(), tmp_path / name, format, **given)
    assert not list(tmp_path.iterdir())


def test_a_missing_runtime_is_told(tmp_path, monkeypatch):
    hide(monkeypatch, "ai_edge_litert")
    with pytest.warns(UserWarning, match=r"m\.tflite.*keras_bimp\[litert\]"):
        keras_bimp.export(dense_model(), tmp_path / "m.tflite", "litert")
    assert pathlib.Path(tmp_path, "m.tflite").exists()


def hide(monkeypatch, package):
    """Pretends that a package is not installed, and all others are."""
    found = sys.modules["keras_bimp._src.exporting.formats"]
    monkeypatch.setattr(found, "is_installed", lambda name: name != package)
    verifying = sys.modules["keras_bimp._src.exporting.verifying"]
    monkeypatch.setattr(verifying, "is_installed", lambda name: name != package)
