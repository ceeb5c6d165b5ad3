"""Errors name what prevents an export, and the remedy."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_bimp
from keras_bimp._src.exporting import runtimes
from keras_bimp._src.exporting.inputs import input_names
from keras_bimp._src.exporting.inputs import outputs_of
from keras_bimp._src.exporting.inputs import tried_inputs
from keras_bimp._src.foreign_errors import told

FILES = {"litert": "m.tflite", "onnx": "m.onnx", "openvino": "m.xml"}


def check(model, format, path):
    """Checks the exported model's outputs on other inputs."""
    keras_bimp.export(model, path, format)
    inputs, _ = tried_inputs(model)
    inputs = [np.repeat(x, 2, axis=0)[1:] for x in inputs]
    found = runtimes.run(format, str(path), inputs, input_names(model), [])
    for y, expected in zip(found, outputs_of(model, inputs), strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("format", FILES)
@pytest.mark.parametrize("shape", [(), (5, 8), (300, 8)])
def test_constants_in_the_graph(format, shape, tmp_path):
    rng = np.random.default_rng(0)
    x = keras.Input((shape[0] if shape else 5, 8), name="x")
    table = keras.ops.convert_to_tensor(rng.normal(size=shape), "float32")
    model = keras.Model(x, layers.Dense(3)(x * table + keras.ops.sqrt(16.0)))
    path = tmp_path / FILES[format]
    check(model, format, path)
    if format == "onnx":
        import onnx

        assert [i.name for i in onnx.load(path).graph.input] == ["x"]


def small(unroll=False):
    return keras.Sequential(
        [
            keras.Input((4, 3)),
            layers.Bidirectional(layers.GRU(2, unroll=unroll)),
            layers.Dense(2),
        ]
    )


@pytest.mark.slow
def test_loops_in_litert(tmp_path):
    model = small()
    with pytest.raises(ValueError, match=r"'forward_gru'.*`unroll=True`") as e:
        keras_bimp.export(model, tmp_path / "m.tflite", "litert")
    assert "loc(" not in str(e.value)
    other = small(unroll=True)
    other.set_weights(model.get_weights())
    check(other, "litert", tmp_path / "m.tflite")
    np.testing.assert_allclose(
        model(np.ones((2, 4, 3))), other(np.ones((2, 4, 3))), rtol=1e-5
    )


def network():
    x = keras.Input((5, 8))
    y = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    return keras.Model(x, layers.Dense(3, activation="gelu")(y))


@pytest.fixture
def policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("mixed_bfloat16", "litert"),
        ("mixed_bfloat16", "onnx"),
        ("mixed_bfloat16", "openvino"),
        ("bfloat16", "onnx"),
        ("mixed_float16", "litert"),
        ("float16", "litert"),
        ("float64", "litert"),
    ],
)
def test_types_that_a_format_lacks(name, format, policy, tmp_path):
    policy(name)
    model = network()
    kind = name.removeprefix("mixed_")
    path = tmp_path / FILES[format]
    for verify in (True, False):
        with pytest.raises(
            ValueError, match=rf"{kind}.*set_dtype_policy\('float32'\)"
        ):
            keras_bimp.export(model, path, format, verify=verify)
    policy("float32")
    other = network()
    other.set_weights(model.get_weights())
    keras_bimp.export(other, path, format)


def test_an_exact_gelu_of_16_bits(policy, tmp_path):
    """In TensorFlow it is 1 - erf."""
    policy("mixed_float16")
    keras_bimp.export(network(), tmp_path / "m.onnx", "onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixed_bfloat16", "mixed_float16"])
def test_saved_models_of_16_bits(name, policy, tmp_path):
    policy(name)
    keras_bimp.export(network(), tmp_path / "1")


def test_types_that_a_runtime_lacks(policy, tmp_path):
    policy("float64")
    x = keras.Input((6, 6, 1))
    model = keras.Model(x, layers.Conv2D(2, 3)(x))
    with pytest.raises(RuntimeError, match=r"float64.*'float32'") as e:
        keras_bimp.export(model, tmp_path / "m.onnx", "onnx")
    assert "Traceback" not in str(e.value)
    assert not list(tmp_path.iterdir())


def test_states_that_onnx_lacks(tmp_path):
    def network(stateful):
        return keras.Sequential(
            [
                keras.Input(batch_shape=(2, 3, 4)),
                layers.SimpleRNN(4, stateful=stateful, name="keeps"),
            ]
        )

    model = network(True)
    with pytest.raises(ValueError, match=r"'keeps'.*`stateful=False`"):
        keras_bimp.export(model, tmp_path / "m.onnx", "onnx", verify=False)
    other = network(False)
    other.set_weights(model.get_weights())
    keras_bimp.export(other, tmp_path / "m.onnx", "onnx", verify=False)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_tables_of_words(format, tmp_path):
    x = keras.Input((2,), dtype="string")
    y = layers.StringLookup(vocabulary=["a", "b"], name="words")(x)
    model = keras.Model(x, layers.Embedding(3, 2)(y))
    with pytest.raises(ValueError, match=r"'words'.*Look up before"):
        keras_bimp.export(model, tmp_path / FILES[format], format)


@pytest.mark.slow
def test_words_are_cut_in_front_of_litert(tmp_path):
    x = keras.Input((1,), dtype="string")
    words = layers.TextVectorization(vocabulary=["a"], output_sequence_length=3)
    model = keras.Model(x, layers.Embedding(3, 2)(words(x)))
    with pytest.raises(ValueError, match=r"'string_lookup.*Look up before"):
        keras_bimp.export(model, tmp_path / "m.tflite", "litert")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("format", ["tf_saved_model", *FILES])
def test_a_model_that_cannot_be_traced(format, tmp_path):
    def model(size):
        images = keras.Input((size, size, 2))
        larger = layers.UpSampling2D(2, interpolation="bilinear")
        return keras.Model(images, larger(layers.Conv2D(3, 1)(images)))

    path = tmp_path / FILES.get(format, "1")
    with pytest.raises(
        ValueError, match=r"trace.*\(None, None, 2\).*fixed size.*UpSampling2D"
    ):
        keras_bimp.export(model(None), path, format)
    assert not any(tmp_path.iterdir())
    other = model(4)
    other.set_weights(model(None).get_weights())
    keras_bimp.export(other, path, format)
    assert path.exists()


@pytest.mark.slow
@pytest.mark.parametrize("given", [False, True])
def test_steps_that_keras_leaves_out(given, tmp_path):
    def model(steps):
        inputs = keras.Input((steps, 4))
        return keras.Model(
            inputs, layers.TimeDistributed(layers.Dense(3))(inputs)
        )

    # As many examples as steps, which Keras 3.15.1 confuses.
    x = np.random.default_rng(0).normal(size=(8, 8, 4)) if given else None
    path = tmp_path / "1"
    with pytest.raises(RuntimeError, match=r"'time_distributed.*fixed number"):
        keras_bimp.export(model(None), path, example_data=x)
    assert not any(tmp_path.iterdir())
    keras_bimp.export(model(8), path, example_data=x)
    assert path.exists()


def test_what_others_say_is_cut_to_what_counts():
    text = (
        "Exception encountered when calling Dense.call().\n\n"
        "\x1b[1m{{function_node __wrapped__Slice_device_/cpu:0}} Expected "
        "size[0] in [0, 20], but got 32 [Op:Slice] name: \x1b[0m\n\n"
        "Arguments received by Dense.call():\n  x=tf.Tensor(shape=(3, 32))"
    )
    assert told(text) == (
        "Exception encountered when calling Dense.call(). Expected size[0] in "
        "[0, 20], but got 32"
    )
    text = (
        'loc(fused["a", "b"]): error: x\n<unknown>:0: note: loc("y"): called '
        "from\nerror: it failed"
    )
    assert told(text) == "error: it failed"
    text = (
        "Traceback (most recent call last):\n"
        '  File "/a/b.py", line 3, in f\n    return g()\nValueError: no\n'
    )
    assert told(text) == "ValueError: no"
    text = (
        "Graph execution error:\n\nDetected at node while/add defined at (most "
        'recent call last):\n  File "/a/b.py", line 3, in f\n\n  File "/c.py", '
        "line 4, in g\n\nIncompatible shapes: [16,64] vs. [4,64]\n\t "
        "[[{{node while/add}}]] [Op:__inference_multi_step_1]"
    )
    assert told(text) == (
        "Graph execution error: Incompatible shapes: [16,64] vs. [4,64]"
    )
    assert told(KeyError()) == "KeyError"
    assert len(told("word " * 1000)) < 320
