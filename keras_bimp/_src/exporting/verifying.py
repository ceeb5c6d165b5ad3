"""Verifies that an exported model computes what the Keras model does."""

import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import keras
import numpy as np

from keras_bimp._src.backends import backend
from keras_bimp._src.exporting import runtimes
from keras_bimp._src.exporting.formats import FORMATS
from keras_bimp._src.exporting.formats import how_to_install
from keras_bimp._src.exporting.formats import is_installed
from keras_bimp._src.exporting.other_python import environment
from keras_bimp._src.foreign_errors import told
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.keras_internals.quantization import is_quantized

_FLOAT32 = 1e-5
_ROUNDED = 1e-2  # float16, 8-bit layers of Keras, TF32 of GPUs.
_BFLOAT16 = 5e-2  # Each layer rounds to 8 bits.
_INT8 = 1e-1


def default_tolerance(
    model: keras.Model, format: str, quantize: str | None
) -> float:
    """Returns the default tolerance, relative to the largest output."""
    if quantize:
        return _ROUNDED if quantize == "float16" else _INT8
    layers = layers_in(model)
    types = {layer.compute_dtype for layer in layers}
    if "bfloat16" in types:
        return _BFLOAT16
    exact = "float16" not in types and all(
        not is_quantized(layer) or format == "packed" for layer in layers
    )
    return _FLOAT32 if exact and not _on_accelerator() else _ROUNDED


def verify(
    format: str,
    path: pathlib.Path,
    inputs: list[np.ndarray],
    names: list[str | None],
    expected: list[np.ndarray],
    tolerance: float,
    remedy: str = "",
    refuse: str = "",
) -> float | None:
    """Runs an exported model in its own runtime, in a fresh process.

    Args:
        format: As in `export`.
        path: The exported file or folder.
        inputs: Arrays.
        names: Their names.
        expected: The Keras model's outputs for them.
        tolerance: See `default_tolerance`.
        remedy: The end of the message if it fails or its outputs differ.
        refuse: The message if it does not run by default. If empty, that is a
            warning instead.

    Returns:
        The largest difference of outputs, relative to the largest output;
        `None` if the runtime is not installed.

    Raises:
        RuntimeError: If it does not run, or its outputs differ.
        ValueError: If it does not run by default.
    """
    runtime = FORMATS[format].runtime
    if not is_installed(runtime):
        warnings.warn(
            f"'{path.name}' is not verified: {runtime} is not installed: "
            f"{how_to_install(runtime)}",
            stacklevel=3,
        )
        return None
    found = _run(format, path, inputs, names, remedy, refuse)
    return check_same(found, expected, tolerance, remedy)


def check_same(
    found: list[np.ndarray],
    expected: list[np.ndarray],
    tolerance: float,
    remedy: str = "",
) -> float:
    """Raises RuntimeError if outputs differ from the model's.

    Returns:
        The largest difference, relative to the largest output.
    """
    if len(found) != len(expected):
        raise RuntimeError(
            f"The exported model returns {len(found)} outputs instead of "
            f"{len(expected)}. Nothing is left behind"
        )
    worst = max(map(_difference, found, expected), default=0.0)
    if worst > tolerance:
        raise RuntimeError(
            f"The exported model must compute the same as `model`. Outputs "
            f"are off by up to {worst:.1e} of the largest, more than "
            f"tolerance={tolerance:.0e}. Nothing is left behind. If that is "
            f"rounding, pass a larger `tolerance`{remedy}"
        )
    return worst


def _run(format, path, inputs, names, remedy, refuse):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        job = {"format": format, "path": str(path), "names": names}
        (folder / "job.json").write_text(json.dumps(job))
        np.savez(folder / "inputs.npz", *inputs)
        done = subprocess.run(
            [sys.executable, "-P", runtimes.__file__, name],
            env=environment(),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            error = folder / "error.txt"
            said = told(error.read_text()) if error.exists() else ""
            said = said or f"nothing, and exits with {done.returncode}"
            raise RuntimeError(
                f"The exported model does not run, and nothing is left behind: "
                f"{FORMATS[format].runtime} says: {said}{remedy}"
            )
        note = (folder / "notes.txt").read_text()
        if note and refuse:
            raise ValueError(f"{refuse}: {note}")
        if note:
            warnings.warn(f"'{path.name}': {note}", stacklevel=4)
        with np.load(folder / "outputs.npz") as arrays:
            return [arrays[f"arr_{i}"] for i in range(len(arrays.files))]


def _difference(found, expected):
    """The largest difference, relative to the largest entry; never NaN."""
    if found.shape != expected.shape:
        return np.inf
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(found, expected) else np.inf
    finite = np.isfinite(expected)
    if not np.array_equal(found[~finite], expected[~finite], equal_nan=True):
        return np.inf
    found, expected = found[finite], expected[finite]
    if not np.isfinite(found).all():
        return np.inf
    largest = np.abs(expected).max(initial=0.0)
    off = np.abs(found.astype("float64") - expected).max(initial=0.0)
    return float(off / largest) if largest else float(off)


def _on_accelerator():
    if backend() == "torch":
        import torch

        return torch.cuda.is_available() or torch.backends.mps.is_available()
    if backend() == "jax":
        import jax

        return jax.default_backend() != "cpu"
    import tensorflow as tf

    return len(tf.config.list_physical_devices()) > 1
