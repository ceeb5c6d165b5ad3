import errno
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import compile_model
from helpers import dense_model
from helpers import fit
from keras import layers

import keras_bimp

# The function of the same name shadows it.
export_module = sys.modules["keras_bimp._src.exporting.export"]

# TensorFlow without Keras reads the SavedModel, then Keras reads the `.keras`
# file. Importing keras_bimp fails.
READER = """
import json, sys
import numpy as np

blocked = {"keras_bimp"}

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
folder = sys.argv[1]
x = np.load(folder + "/x.npy")
result = {}
import tensorflow as tf
blocked.add("keras")
loaded = tf.saved_model.load(folder + "/saved_model/1")
serve = loaded.signatures["serving_default"]
(name,) = serve.structured_input_signature[1]
(y,) = serve(**{name: tf.constant(x)}).values()
result["served"] = y.numpy().tolist()
(one,) = serve(**{name: tf.constant(x[:1])}).values()
result["served_one"] = one.numpy().tolist()
result["served_zeros"] = sum(
    int((v.numpy() == 0).sum()) for v in serve.variables if len(v.shape) > 1
)
result["served_sizes"] = sorted(int(np.prod(v.shape)) for v in serve.variables)
blocked.remove("keras")
import keras
model = keras.models.load_model(folder + "/model.keras")
result["loaded"] = model.predict(x, verbose=0).tolist()
result["loaded_zeros"] = sum(
    int((v.numpy() == 0).sum())
    for v in model.weights
    if v.path.endswith("kernel")
)
print(json.dumps(result))
"""


@pytest.mark.every_backend
def test_artifacts_need_no_keras_bimp(tmp_path):
    model = compile_model(keras_bimp.wrap(dense_model()))
    fit(model, 4, keras_bimp.callbacks(0.8, dense_epochs=2, verbose=0))
    x = np.random.default_rng(0).standard_normal((9, 6)).astype("float32")
    expected = model.predict(x, verbose=0)
    stripped = keras_bimp.strip(model)
    stripped.save(tmp_path / "model.keras")
    path = tmp_path / "saved_model" / "1"
    assert keras_bimp.export(stripped, path, verify=False) == path
    np.save(tmp_path / "x.npy", x)
    reader = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert reader.returncode == 0, reader.stderr
    result = json.loads(reader.stdout.splitlines()[-1])
    zeros = round(0.8 * 72)
    assert result["served_zeros"] == result["loaded_zeros"] == zeros
    # The first dense layer does what batch normalization did.
    assert result["served_sizes"] == [3, 8, 24, 48]
    for key in ("served", "loaded"):
        np.testing.assert_allclose(result[key], expected, atol=1e-6)
    np.testing.assert_allclose(result["served_one"], expected[:1], atol=1e-6)
    import tensorflow as tf

    # Each weight is written once.
    stored = tf.train.list_variables(str(path / "variables" / "variables"))
    sizes = [int(np.prod(s)) for n, s in stored if "VARIABLE_VALUE" in n]
    assert sum(sizes) == 48 + 8 + 24 + 3
    # Only plain operations, which other runtimes can also read.
    assert b"XlaCallModule" not in (path / "saved_model.pb").read_bytes()
    assert b"MatMul" in (path / "saved_model.pb").read_bytes()


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_a_loss_of_ones_own_is_no_hindrance(tmp_path):
    def loss(y, y_pred):
        return keras.ops.mean((y - y_pred) ** 2)

    import tensorflow as tf

    model = dense_model()
    model.compile("sgd", loss)
    labels = ["cat", "dög", "owl"]
    path = keras_bimp.export(model, tmp_path / "1", labels=labels, verify=False)
    loaded = tf.saved_model.load(str(path))
    found = loaded.signatures["classify"](tf.zeros((1, 6)))
    assert sorted(c.decode() for c in found["classes"][0].numpy()) == labels


def two_inputs():
    b, a = keras.Input((2,), name="b"), keras.Input((3,), name="a")
    joined = layers.Concatenate()([a, b])
    outputs = {"y": layers.Dense(2)(joined), "x": layers.Dense(1)(a)}
    return keras.Model({"a": a, "b": b}, outputs)


@pytest.mark.slow
def test_several_inputs_are_warmed_up_by_name(tmp_path):
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    model = two_inputs()
    x = {"a": np.ones((4, 3)), "b": np.ones((4, 2))}
    path = keras_bimp.export(model, tmp_path / "7", warmup_data=x)
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    records = tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    for record, size in zip(records, (4, 1), strict=True):
        log = prediction_log_pb2.PredictionLog.FromString(record)
        request = log.predict_log.request
        assert request.model_spec.signature_name == "serving_default"
        inputs = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
        assert inputs["a"].shape == (size, 3)
        assert inputs["b"].shape == (size, 2)
        assert inputs["a"].dtype == np.float32
        served = serve(**{k: tf.constant(v) for k, v in inputs.items()})
        expected = model({k: v[:size] for k, v in x.items()})
        for key in ("x", "y"):
            np.testing.assert_allclose(served[key], expected[key], atol=1e-6)


def test_classes_by_name(tmp_path):
    import tensorflow as tf

    model = dense_model()
    x = np.random.default_rng(0).standard_normal((5, 6)).astype("float32")
    labels = ["cat", "dög", "owl"]
    path = keras_bimp.export(
        model, tmp_path / "1", labels=labels, top_k=2, verify=False
    )
    loaded = tf.saved_model.load(str(path))
    found = loaded.signatures["classify"](tf.constant(x))
    expected = model.predict(x, verbose=0)
    order = np.argsort(-expected, axis=1)[:, :2]
    told = [[c.decode() for c in row] for row in found["classes"].numpy()]
    assert told == np.array(labels)[order].tolist()
    scores = np.take_along_axis(expected, order, 1)
    np.testing.assert_allclose(found["scores"], scores, atol=1e-6)


def test_signatures_of_ones_own(tmp_path):
    import tensorflow as tf

    model = dense_model()
    inside = keras.Model(model.inputs[0], model.layers[0].output)
    path = keras_bimp.export(
        model,
        tmp_path / "1",
        signatures={
            "probabilities": lambda x: {"p": keras.ops.softmax(model(x))},
            "features": inside,
        },
        verify=False,
    )
    loaded = tf.saved_model.load(str(path))
    x = np.ones((2, 6), "float32")
    (features,) = loaded.signatures["features"](tf.constant(x)).values()
    np.testing.assert_allclose(features, inside(x), atol=1e-6)
    p = loaded.signatures["probabilities"](tf.constant(x))["p"]
    np.testing.assert_allclose(np.sum(p, axis=1), 1, atol=1e-6)
    stored = tf.train.list_variables(str(path / "variables" / "variables"))
    sizes = [int(np.prod(s)) for n, s in stored if "VARIABLE_VALUE" in n]
    assert sum(sizes) == 48 + 8 + 4 * 8 + 24 + 3  # Once for all signatures.


@pytest.mark.slow
def test_saved_model_cli_runs_it(tmp_path):
    model = dense_model()
    path = keras_bimp.export(model, tmp_path / "1", verify=False)
    x = np.ones((2, 6), "float32")
    np.save(tmp_path / "x.npy", x)
    done = subprocess.run(
        [
            pathlib.Path(sys.executable).with_name("saved_model_cli"),
            "run",
            f"--dir={path}",
            "--tag_set=serve",
            "--signature_def=serving_default",
            f"--inputs={model.inputs[0].name}={tmp_path / 'x.npy'}",
            f"--outdir={tmp_path}",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "output_0.npy")
    np.testing.assert_allclose(found, model(x), atol=1e-6)


def test_eight_bits_keep_the_zeros(tmp_path):
    import tensorflow as tf

    model = keras.Sequential(
        [
            keras.Input((5, 8)),
            layers.EinsumDense("abc,cd->abd", (None, 16)),
            layers.Dense(4),
        ]
    )
    wrapped = keras_bimp.wrap(model)
    keras_bimp.prune(wrapped, 0.75, optimizer=keras.optimizers.SGD())
    stripped = keras_bimp.strip(wrapped)
    stripped.quantize("int8", filters=["dense"])
    path = keras_bimp.export(stripped, tmp_path / "1", verify=False)
    loaded = tf.saved_model.load(str(path))
    served = loaded.signatures["serving_default"].variables
    kernels = [v.numpy() for v in served if v.dtype == tf.int8]
    assert sum(k.size for k in kernels) == 8 * 16 + 16 * 4
    # Small weights may also become 0.
    assert sum(int((k == 0).sum()) for k in kernels) >= 0.75 * (128 + 64)


def trained(epochs, stop=None):
    model = compile_model(keras_bimp.wrap(dense_model()))
    callbacks = keras_bimp.callbacks(0.8, dense_epochs=1, cycles=2, verbose=0)
    if stop is not None:
        callbacks.append(
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: setattr(
                    model, "stop_training", epoch + 1 == stop
                )
            )
        )
    fit(model, epochs, callbacks)
    return keras_bimp.strip(model)


def test_an_incomplete_training_is_refused(tmp_path):
    model = trained(5, stop=2)
    with pytest.raises(
        ValueError,
        match=r"`model`.* 2 .*5 .*55\.56%.*80\.00%.*check_sparsity=False",
    ):
        keras_bimp.export(model, tmp_path / "1")
    assert not list(tmp_path.iterdir())
    keras_bimp.export(model, tmp_path / "1", check_sparsity=False, verify=False)


def test_a_training_that_stopped_after_its_last_pruning_is_told(tmp_path):
    model = trained(5, stop=4)
    with pytest.warns(UserWarning, match="[Mm]odel.* 4 .*5 epochs"):
        keras_bimp.export(model, tmp_path / "1", verify=False)


def test_zeros_that_were_lost_are_told(tmp_path):
    model = trained(3)
    compile_model(model)
    fit(model, 1)
    with pytest.raises(
        ValueError, match=r"`model`.* 0 .* 58 .*`keras_bimp\.wrap"
    ):
        keras_bimp.export(model, tmp_path / "1")
    keras_bimp.export(model, tmp_path / "1", check_sparsity=False, verify=False)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_statistics_that_are_not_finite_are_refused(tmp_path, value):
    model = dense_model()
    model.layers[1].moving_mean.assign(np.full(8, value))
    with pytest.raises(ValueError, match=r"`model`.*moving_mean"):
        keras_bimp.export(model, tmp_path / "1")


def test_a_full_disk_leaves_nothing(tmp_path):
    import resource

    model = keras.Sequential([keras.Input((300,)), layers.Dense(300)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for name, format in (("1", "tf_saved_model"), ("a.packed", "packed")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        try:
            with pytest.raises(OSError, match="`filepath`") as raised:
                keras_bimp.export(model, tmp_path / name, format)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert raised.value.errno == errno.EFBIG
        assert raised.value.filename == str(tmp_path / name)
        assert not list(tmp_path.iterdir())


def test_what_computes_something_else_is_not_left(tmp_path, monkeypatch):
    def run(model, examples):
        inputs, outputs = right(model, examples)
        return inputs, [1.001 * y for y in outputs]

    right = export_module._run
    monkeypatch.setattr(export_module, "_run", run)
    model = dense_model()
    with pytest.raises(RuntimeError, match=r"`model`.*1\.0e-03.*`tolerance`"):
        keras_bimp.export(model, tmp_path / "1")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("found", "expected", "text"),
    [
        ([1.0, np.nan], [1.0, 2.0], "inf.*`tolerance`"),
        ([1.0, np.inf], [1.0, 2.0], "inf.*`tolerance`"),
        ([1.0, 2.0], [1.0, np.nan], "inf.*`tolerance`"),
        ([1.0, -np.inf], [1.0, np.inf], "inf.*`tolerance`"),
        ([1.0], [1.0, 2.0], "1 outputs.* 2"),
    ],
)
def test_no_output_passes_unseen(monkeypatch, found, expected, text):
    verifying = sys.modules["keras_bimp._src.exporting.verifying"]
    found, expected = (
        [np.array([1, y]) for y in ys] for ys in (found, expected)
    )
    monkeypatch.setattr(verifying, "_run", lambda *args: found)
    given = "tf_saved_model", pathlib.Path("1"), [], []
    with pytest.raises(RuntimeError, match=text):
        verifying.verify(*given, expected, 0.1)
    verifying.verify(*given, found, 0.0)


def test_who_watches_the_folder_sees_whole_versions(tmp_path, monkeypatch):
    seen = []

    def compare(*args):
        seen.append(sorted(p.name for p in (tmp_path / "m").iterdir()))

    monkeypatch.setattr(export_module, "_verify", compare)
    rename = os.rename

    def watched(source, target):
        parts = sorted(p.name for p in pathlib.Path(source).iterdir())
        rename(source, target)
        seen.append(parts)

    monkeypatch.setattr(os, "rename", watched)
    # The files of a killed run.
    (tmp_path / "m" / "1.unfinished" / "1" / "variables").mkdir(parents=True)
    keras_bimp.export(dense_model(), tmp_path / "m" / "1")
    assert seen[0] == ["1.unfinished"]
    assert {"saved_model.pb", "variables"} <= set(seen[-1])
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["1"]


def test_the_model_is_left_as_it_is(tmp_path):
    model = compile_model(dense_model())
    fit(model, 1)
    before = [v.numpy() for v in model.variables]
    train_function = model.train_function
    keras_bimp.export(model, tmp_path / "1", verify=False)
    assert model.train_function is train_function
    for a, b in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(a, b.numpy())


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["my image"], "'my image'"),
        (["_a"], "'_a'"),
        (["a²"], "'a²'"),
        (["class"], "'class'"),
        (["self"], "'self'"),
        (["A", "a"], "'a'"),
        (["a-b", "a.b"], r"'a\.b'"),
        (["1-a", "B.c", "args"], None),
    ],
)
def test_names_that_tensorflow_cannot_have_are_told(tmp_path, names, text):
    inputs = [keras.Input((2,), name=name) for name in names]
    model = keras.Model(inputs, keras.ops.stack(inputs))
    if text is None:
        keras_bimp.export(model, tmp_path / "1", verify=False)
        return
    for name, format in (("1", "tf_saved_model"), ("m.xml", "openvino")):
        told = rf"`model`.*Received: .*{text}.*`keras\.Input\("
        with pytest.raises(ValueError, match=told):
            keras_bimp.export(model, tmp_path / "new" / name, format)
    assert not list(tmp_path.iterdir())


class TwoArguments(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, z, a, training=None, b=None):
        return self.dense(z) + a


class Unordered(TwoArguments):
    def build(self, a_shape, z_shape):
        self.dense.build(z_shape)


class Ordered(TwoArguments):
    def build(self, z_shape, a_shape):
        self.dense.build(z_shape)


@pytest.mark.slow
def test_models_that_take_several_arguments(tmp_path):
    z, a = np.ones((3, 4)), np.ones((3, 2))
    for kind in (TwoArguments, Unordered):
        model = kind()
        model(z, a)
        for name, format in (("1", "tf_saved_model"), ("m.onnx", "onnx")):
            with pytest.raises(ValueError, match=r"`build\(self, z_sh.*, a_sh"):
                keras_bimp.export(model, tmp_path / "new" / name, format)
    assert not list(tmp_path.iterdir())
    model = Ordered()
    model(z, a)
    keras_bimp.export(model, tmp_path / "1")


@pytest.mark.parametrize(
    ("make", "name", "arguments", "text"),
    [
        (
            lambda: keras_bimp.wrap(dense_model()),
            "1",
            {},
            r"`model`.*keras_bimp\.strip\(",
        ),
        (dense_model, "model", {}, "`filepath`.*TensorFlow Serving"),
        (dense_model, "exists/1", {}, "`filepath`.*next version.*exists/1"),
        (dense_model, "1", {"format": "pickle"}, "'tf_saved_model'"),
        (
            lambda: keras.Sequential([layers.Dense(2)]),
            "1",
            {},
            "`model`.*built.*=<",
        ),
        (lambda: "model", "1", {}, "`model`"),
        (dense_model, "²", {}, "`filepath`.*TensorFlow Serving.*²"),
        (dense_model, "file/1", {}, "`filepath`.*file' "),
        (dense_model, "a.tf", {"format": "litert"}, r"`filepath`.*'\.tflite'"),
        (dense_model, "a", {"format": "packed"}, r"`filepath`.*'\.packed'"),
        (dense_model, "1", {"quantize": "int8"}, "`quantize`.*format='t"),
        (dense_model, "1", {"labels": ["a"]}, r"`labels`.* 1 .*\(3,"),
        (dense_model, "1", {"labels": "abc"}, "`labels`.*'abc'"),
        (two_inputs, "1", {"labels": ["a", "b"]}, "`labels`.* 2 .*'a', 'b'"),
        (dense_model, "1", {"labels": list("abc"), "top_k": 0}, "`top_k`"),
        (
            dense_model,
            "1",
            {"warmup_data": np.ones((2, 5))},
            r"`warmup_data`.*\(None, 6\)",
        ),
        (
            dense_model,
            "1",
            {"signatures": {"classify": len}},
            "`signatures`.*{'classify'",
        ),
        (dense_model, "1", {"signatures": [len]}, r"`signatures`.*\[<"),
        (dense_model, "1", {"tolerance": 0}, "`tolerance`.*=0"),
        (
            dense_model,
            "a.tflite",
            {"format": "litert", "quantize": "int8"},
            "`calibration_data`.*`quantize`.*'int8'",
        ),
        (
            dense_model,
            "a.onnx",
            {"format": "onnx", "labels": list("abc")},
            "`labels`.*format='onnx'",
        ),
    ],
)
def test_bad_arguments(tmp_path, make, name, arguments, text):
    (tmp_path / "exists" / "1").mkdir(parents=True)
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=text):
        keras_bimp.export(make(), tmp_path / name, **arguments)
    assert sorted(tmp_path.rglob("*")) == before
