"""The example that looks for the smallest file, and the study of 8 bits."""

import gzip
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from from_examples import EXAMPLES
from from_examples import STUDY
from from_examples import importable
from helpers import array
from keras import layers

import keras_bimp

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`"),
    pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated"),
]


@pytest.fixture
def smallest():
    with importable(EXAMPLES):
        import smallest

        yield smallest


@pytest.fixture
def zeros_of_files():
    with importable(STUDY):
        import file_zeros

        yield file_zeros


def of_litert(path, images):
    interpreter = tf.lite.Interpreter(str(path))
    runner = interpreter.get_signature_runner("serving_default")
    (name,) = runner.get_input_details()
    found = [runner(**{name: image[None]})["output_0"] for image in images]
    return np.concatenate(found)


def test_every_file_is_what_the_table_says(smallest, tmp_path, capsys):
    smallest.FLAGS(
        [
            "smallest",
            "--sparsities=0.9",
            "--epochs=3",
            "--retrain_epochs=1",
            f"--output_dir={tmp_path}",
        ]
    )
    smallest.main(None)
    shown = capsys.readouterr().out
    rows = re.findall(
        r"([\d.]+)% │ +(\S+) +│ +(32|8) │ +([\d.]+) kB │ +([\d.]+) kB │"
        r" +([\d.]+)%",
        shown,
    )
    assert len(rows) == 2 * 6
    folders = {"0.0": tmp_path / "files" / "0%", "90.0": tmp_path / "files/90%"}
    endings = {".keras": "keras", "LiteRT": "tflite", "packed": "packed"}
    images, labels = smallest.load_data()[1]
    sizes = {}
    for share, format, bits, plain, gzipped, accuracy in rows:
        stem = "model" if bits == "32" else "8_bits"
        path = folders[share] / f"{stem}.{endings[format]}"
        data = path.read_bytes()
        assert float(plain) == pytest.approx(len(data) / 1000, abs=0.051)
        size = len(gzip.compress(data)) / 1000
        assert float(gzipped) == pytest.approx(size, abs=0.051)
        sizes[share, format, bits] = size
        if format == "LiteRT":
            found = of_litert(path, images)
        elif format == "packed":
            load = keras_bimp.exporting.load_packed
            found = load(path, compile=False)(images)
        else:
            found = keras.models.load_model(path, compile=False)(images)
        right = np.mean(np.argmax(found, -1) == labels)
        # In 8 bits kernels of LiteRT may round otherwise for one image.
        assert float(accuracy) == pytest.approx(100 * right, abs=0.6)
    assert len(sizes) == 12
    for (share, format, bits), size in sizes.items():
        if share == "90.0":
            assert size < 0.4 * sizes["0.0", format, bits]
        if bits == "8":
            assert size < sizes[share, format, "32"]
    model = keras.models.load_model(
        folders["90.0"] / "model.keras", compile=False
    )
    kernels = [array(v) for v in model.weights if len(v.shape) > 1]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    total = sum(kernel.size for kernel in kernels)
    assert zeros == round(0.9 * total)
    assert "Smallest within a point of the best: " in shown
    assert (tmp_path / "smallest.png").stat().st_size > 10_000


FILES = {
    ".keras": "m.keras",
    "tf_saved_model": "1",
    "litert": "m.tflite",
    "onnx": "m.onnx",
    "openvino": "m.xml",
    "packed": "m.packed",
}


@pytest.mark.parametrize("format", FILES)
def test_zeros_are_counted_in_files(zeros_of_files, format, tmp_path):
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((30,)),
            layers.Dense(40, activation="relu"),
            layers.Dense(7),
        ]
    )
    for variable in model.weights:
        value = rng.normal(size=variable.shape)
        kept = rng.random(variable.shape) > 0.7
        variable.assign(np.where(kept, value, 0))
    kernels = [array(v) for v in model.weights if len(v.shape) > 1]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    path = tmp_path / FILES[format]
    if format == ".keras":
        model.save(path)
    else:
        keras_bimp.export(model, path, format, verify=False)
    found = zeros_of_files.share_of_zeros(format, path, {1200, 280})
    assert found == zeros / 1480


def test_codes_of_litert(zeros_of_files, tmp_path):
    rng = np.random.default_rng(0)
    kernel = np.where(rng.random((30, 40)) > 0.7, rng.normal(size=(30, 40)), 0)
    kernel[0] = 3  # So that little is rounded to 0.
    model = keras.Sequential([keras.Input((30,)), layers.Dense(40)])
    model.layers[0].kernel.assign(kernel)
    path = keras_bimp.export(
        model, tmp_path / "m.tflite", "litert", quantize="int8_weights"
    )
    found = zeros_of_files.share_of_zeros("litert", path, {1200})
    assert found == np.mean(np.rint(kernel / (3 / 127)) == 0)


def test_two_codes_in_a_byte(zeros_of_files, monkeypatch):
    arrays = [np.array([0x00, 0x10, 0x01, 0x11], "int8"), np.zeros(5)]
    monkeypatch.setitem(zeros_of_files._READERS, "onnx", lambda path: arrays)
    assert zeros_of_files.share_of_zeros("onnx", None, {8}) == 0.5
    assert np.isnan(zeros_of_files.share_of_zeros("onnx", None, {7000}))
