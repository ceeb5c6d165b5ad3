"""Compares the sizes of a pruned network in every format and Keras' export.

Each exported file was verified in its own runtime. The packed file is unpacked
again and compared bit by bit.
"""

import gzip
import io
import os
import pathlib
import tarfile
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
import networks
import numpy as np
from absl import app
from absl import flags
from absl import logging

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_string("network", "resnet56", "A function of `networks`.")
flags.DEFINE_float("target_sparsity", 0.9, "To prune to.")

FORMATS = {
    "tf_saved_model": "1",
    "litert": "model.tflite",
    "onnx": "model.onnx",
    "openvino": "model.xml",
    "packed": "model.packed",
}
IN_8_BITS = (
    ("litert", "int8"),
    ("litert", "int8_weights"),
    ("packed", "int8_weights"),
)


def build():
    """Builds a network with non-initial statistics and scales."""
    keras.utils.set_random_seed(0)
    model = getattr(networks, FLAGS.network)()
    generator = np.random.default_rng(0)
    for variable in model.variables:
        if variable.path.split("/")[-1] != "kernel":
            values = generator.uniform(0.5, 1.5, variable.shape)
            variable.assign(values.astype("float32"))
    model = keras_bimp.wrap(model)
    keras_bimp.prune(model, FLAGS.target_sparsity)
    return keras_bimp.strip(model)


def files_of(path):
    """Returns the files of an exported model: a folder, or files of a stem."""
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    return sorted(path.parent.glob(f"{path.stem}.*"))


def sizes(path):
    """Returns bytes, and compressed bytes: .tar.gz of a folder, or gzip."""
    files = files_of(path)
    plain = sum(file.stat().st_size for file in files)
    if path.is_dir():
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            tar.add(path, arcname=path.name)
        return plain, len(archive.getvalue())
    return plain, sum(len(gzip.compress(file.read_bytes())) for file in files)


def same_bits(model, path):
    """Whether a packed file has bit-identical weights."""
    loaded = keras_bimp.exporting.load_packed(path)
    pairs = zip(model.get_weights(), loaded.get_weights(), strict=True)
    return all(one.tobytes() == other.tobytes() for one, other in pairs)


def main(_):
    logging.set_verbosity(logging.WARNING)
    model = build()
    print(
        f"{FLAGS.network}: {model.count_params():,} values, "
        f"{keras_bimp.sparsity(model).prunable:.0%} of the prunable "
        "ones 0\n\n| format | bytes | compressed |\n|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        keras_path = folder / "keras" / "1"
        model.export(str(keras_path), verbose=False)
        lines = {"Keras' own SavedModel": keras_path}
        for name, file in FORMATS.items():
            lines[name] = folder / name / file
            lines[name].parent.mkdir()
            keras_bimp.export(model, lines[name], name)
        x = np.random.default_rng(0).uniform(size=(100, *model.input_shape[1:]))
        for name, quantize in IN_8_BITS:
            what = f"{name}, quantize={quantize!r}"
            lines[what] = folder / what / FORMATS[name]
            lines[what].parent.mkdir()
            keras_bimp.export(
                model,
                lines[what],
                name,
                quantize=quantize,
                calibration_data=x if quantize == "int8" else None,
            )
        for name, path in lines.items():
            plain, compressed = sizes(path)
            print(f"| {name} | {plain:,} | {compressed:,} |")
        bits = same_bits(model, lines["packed"])
        print(f"\nThe packed file has the same bits: {bits}")


if __name__ == "__main__":
    app.run(main)
