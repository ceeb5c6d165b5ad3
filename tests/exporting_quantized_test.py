"""Quantized models are exported correctly, or refused."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_bimp
from keras_bimp._src.exporting import quantized
from keras_bimp._src.exporting import runtimes
from keras_bimp._src.exporting.inputs import input_names
from keras_bimp._src.exporting.inputs import outputs_of

pytestmark = [
    pytest.mark.every_backend,
    pytest.mark.slow("jax", "torch"),
    pytest.mark.filterwarnings(
        "ignore:Layer .* does not have a `quantize` met"
    ),
    # OpenVINO forks to send its telemetry, which JAX warns of.
    pytest.mark.filterwarnings("ignore:os.fork"),
    pytest.mark.filterwarnings(
        "ignore:.*_at_fork:pytest.PytestUnraisableExceptionWarning"
    ),
]
FILES = {
    "tf_saved_model": "1",
    "litert": "m.tflite",
    "onnx": "m.onnx",
    "openvino": "m.xml",
}
INT4 = keras.quantizers.Int4QuantizationConfig
INT8 = keras.quantizers.Int8QuantizationConfig
WEIGHTS_ONLY = INT8(activation_quantizer=None)
PER_OUTPUT = INT4(block_size=None)


def network(config=None, width=64, share=0.9):
    """A pruned network with ReLU between its layers."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((width,)),
            layers.Dense(width, activation="relu"),
            layers.Dense(10),
        ]
    )
    wrapped = keras_bimp.wrap(model)
    keras_bimp.prune(wrapped, share, allocation="uniform")
    model = keras_bimp.strip(wrapped)
    if config is not None:
        model.quantize(config.mode, config=config)
    return model


def check(model, format, path):
    """Checks the exported model's outputs on other inputs."""
    keras_bimp.export(model, path, format)
    x = np.random.default_rng(1).uniform(size=(5, 64)).astype("float32")
    (found,) = runtimes.run(format, str(path), [x], input_names(model), [])
    (expected,) = outputs_of(model, [x])
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()


def attention():
    """Builds attention, whose 8-bit layers Keras 3.15.1 does not load."""
    x = keras.Input((6, 16))
    h = layers.MultiHeadAttention(2, 8)(x, x)
    return keras.Model(x, layers.Dense(3)(h))


def test_what_keras_cannot_load_again_is_not_packed(tmp_path):
    model = attention()
    model.quantize("int8")
    path = tmp_path / "m.packed"
    with pytest.raises(
        ValueError, match=r"save and load.*'int8'.*before `quantize`.*_weights"
    ):
        keras_bimp.export(model, path, "packed")
    assert not any(tmp_path.iterdir())
    keras_bimp.export(attention(), path, "packed", quantize="int8_weights")
    assert path.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "format", "instead"),
    [
        (INT8(), "openvino", WEIGHTS_ONLY),
        (INT8(), "litert", WEIGHTS_ONLY),
        (INT4(), "litert", PER_OUTPUT),
    ],
)
def test_what_is_wrong_is_refused_and_its_neighbour_is_not(
    config, format, instead, tmp_path
):
    path = tmp_path / FILES[format]
    argument = "block_size" if config.mode == "int4" else "activation_quantizer"
    words = rf"layer '.*dense.*'{config.mode}'.*before.*{argument}=None"
    with pytest.raises((RuntimeError, ValueError), match=words):
        keras_bimp.export(network(config), path, format)
    assert not list(tmp_path.iterdir())
    check(network(instead), format, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "format"),
    [
        (INT8(), "onnx"),
        (INT4(), "onnx"),
        (INT8(), "tf_saved_model"),
        (WEIGHTS_ONLY, "onnx"),
    ],
)
def test_what_is_right_is_exported(config, format, tmp_path):
    model = network(config)
    if format == "tf_saved_model":
        path = keras_bimp.export(model, tmp_path / FILES[format], format)
        assert path.difference < 0.01
    else:
        check(model, format, tmp_path / FILES[format])


@pytest.mark.parametrize("format", ["litert", "onnx", "openvino"])
def test_what_is_quantized_is_not_written_without_a_run(
    format, tmp_path, monkeypatch
):
    model = network(INT8())
    path = tmp_path / FILES[format]
    with pytest.raises(ValueError, match=r"`verify` must be True.*'int8'"):
        keras_bimp.export(model, path, format, verify=False)
    monkeypatch.setattr(quantized, "is_installed", lambda name: False)
    with pytest.raises(ImportError, match=rf"format='{format}'.*pip install"):
        keras_bimp.export(model, path, format)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_saved_model_is_written_without_a_run(tmp_path):
    path = keras_bimp.export(network(INT8()), tmp_path / "1", verify=False)
    assert path.difference is None


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["int8_weights", "float16"])
def test_litert_rounds_weights_alone(quantize, tmp_path):
    model = network()
    plain = keras_bimp.export(model, tmp_path / "a.tflite", "litert")
    path = keras_bimp.export(
        model, tmp_path / "b.tflite", "litert", quantize=quantize
    )
    assert 1e-6 < path.difference < 0.05
    share = {"int8_weights": 0.5, "float16": 0.65}[quantize]
    assert path.stat().st_size < share * plain.stat().st_size


@pytest.mark.parametrize("quantize", ["int8_weights", "float16"])
def test_calibration_is_for_integers_alone(quantize, tmp_path):
    with pytest.raises(ValueError, match=r"`calibration_data`.*'int8'"):
        keras_bimp.export(
            network(),
            tmp_path / "m.tflite",
            "litert",
            quantize=quantize,
            calibration_data=np.zeros((4, 64)),
        )


@pytest.mark.slow
def test_sparse_tensors_of_eight_bits_that_do_not_load(tmp_path):
    for verify in (True, False):
        with pytest.raises(ValueError, match=r"`sparse_tensors`.*int8_weights"):
            keras_bimp.export(
                network(),
                tmp_path / "m.tflite",
                "litert",
                quantize="int8_weights",
                sparse_tensors=True,
                verify=verify,
            )
    assert not list(tmp_path.iterdir())
    keras_bimp.export(
        network(), tmp_path / "m.tflite", "litert", sparse_tensors=True
    )
    keras_bimp.export(  # It has too few zeros to leave any away.
        network(share=0.1),
        tmp_path / "n.tflite",
        "litert",
        quantize="int8_weights",
        sparse_tensors=True,
    )
