import json
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

# TensorFlow alone reads the SavedModel, then Keras alone the `.keras`;
# importing keras_bimp fails.
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
    path = keras_bimp.export(stripped, tmp_path / "saved_model" / "1")
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
    assert result["served_sizes"] == [3, 8, 8, 8, 8, 8, 24, 48]
    for key in ("served", "loaded"):
        np.testing.assert_allclose(result[key], expected, atol=1e-6)
    np.testing.assert_allclose(result["served_one"], expected[:1], atol=1e-6)
    import tensorflow as tf

    # Every weight is written once.
    stored = tf.train.list_variables(str(path / "variables" / "variables"))
    sizes = [int(np.prod(s)) for n, s in stored if "VARIABLE_VALUE" in n]
    assert sum(sizes) == 48 + 8 + 4 * 8 + 24 + 3


@pytest.mark.every_backend
def test_a_loss_of_ones_own_is_no_hindrance(tmp_path):
    def loss(y, y_pred):
        return keras.ops.mean((y - y_pred) ** 2)

    model = dense_model()
    model.compile("sgd", loss)
    path = keras_bimp.export(model, tmp_path / "1")
    assert (path / "saved_model.pb").exists()


def test_several_inputs(tmp_path):
    import tensorflow as tf

    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    joined = layers.Concatenate()([a, b])
    model = keras.Model({"a": a, "b": b}, layers.Dense(2)(joined))
    path = keras_bimp.export(model, tmp_path / "7")
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    x = {"a": np.ones((4, 3), "float32"), "b": np.ones((4, 2), "float32")}
    (y,) = serve(**{k: tf.constant(v) for k, v in x.items()}).values()
    np.testing.assert_allclose(y, model.predict(x, verbose=0), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "name", "arguments", "text"),
    [
        (lambda: keras_bimp.wrap(dense_model()), "1", {}, "stripped first"),
        (dense_model, "model", {}, "integer"),
        (dense_model, "exists/1", {}, "must not exist"),
        (dense_model, "1", {"format": "pickle"}, "'tf_saved_model'"),
        (lambda: keras.Sequential([layers.Dense(2)]), "1", {}, "built"),
        (lambda: "model", "1", {}, "`model`"),
    ],
)
def test_bad_arguments(tmp_path, make, name, arguments, text):
    (tmp_path / "exists" / "1").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=text):
        keras_bimp.export(make(), tmp_path / name, **arguments)
    assert sorted(tmp_path.rglob("*")) == before
