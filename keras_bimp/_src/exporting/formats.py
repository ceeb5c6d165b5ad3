"""The export formats by name."""

import importlib.util
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import keras

from keras_bimp._src.backends import backend
from keras_bimp._src.exporting import litert
from keras_bimp._src.exporting import onnx_and_openvino as graphs
from keras_bimp._src.exporting import other_python as elsewhere
from keras_bimp._src.exporting import packed
from keras_bimp._src.exporting import saved_model
from keras_bimp._src.exporting.options import Options


class Format(NamedTuple):
    """An export format.

    Attributes:
        write: Callable (model, path, options).
        suffix: The suffix of its files; `None` for a folder.
        packages: Modules that must be installed to write it.
        runtime: The module that runs it; `None` if there is none.
        takes: Arguments of `export` that apply to it.
        lacks: Types that it cannot compute in.
    """

    write: Callable
    suffix: str | None
    packages: tuple[str, ...] = ("tensorflow",)
    runtime: str | None = None
    takes: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


FORMATS = {
    "tf_saved_model": Format(
        saved_model.write,
        None,
        runtime="tensorflow",
        takes=(
            "signatures",
            "labels",
            "warmup_data",
            "sparse_kernels",
            "batch_sizes",
        ),
    ),
    "litert": Format(
        litert.write,
        ".tflite",
        runtime="ai_edge_litert",
        takes=("quantize", "calibration_data", "sparse_tensors"),
        lacks=("bfloat16", "float16", "float64"),
    ),
    "onnx": Format(
        graphs.write_onnx,
        ".onnx",
        ("tensorflow", "onnx", "tf2onnx"),
        runtime="onnxruntime",
        lacks=("bfloat16",),
    ),
    "openvino": Format(
        graphs.write_openvino,
        ".xml",
        ("tensorflow", "openvino"),
        runtime="openvino",
        lacks=("bfloat16",),
    ),
    "packed": Format(packed.write, ".packed", (), takes=("quantize",)),
}
_HOW_TO_INSTALL = {
    "tensorflow": '"keras_bimp[tensorflow]"',
    "tensorflow_serving": "--no-deps tensorflow-serving-api",
    "onnx": '"keras_bimp[onnx]"',
    "onnxruntime": '"keras_bimp[onnx]"',
    "tf2onnx": '"keras_bimp[onnx]"',
    "openvino": '"keras_bimp[openvino]"',
    "ai_edge_litert": '"keras_bimp[litert]"',
}


def is_installed(package: str) -> bool:
    """Whether a module can be imported."""
    return importlib.util.find_spec(package) is not None


def how_to_install(package: str) -> str:
    """Returns the command that installs a module."""
    return f"pip install {_HOW_TO_INSTALL[package]}"


def check_packages(format: str, warmup: bool) -> None:
    """Raises ImportError if a package that writes the format is missing."""
    serving = ("tensorflow_serving",) if warmup else ()
    for package in (*FORMATS[format].packages, *serving):
        if not is_installed(package):
            raise ImportError(
                f"`format={format!r}` needs {package}: "
                f"{how_to_install(package)}"
            )


def write(
    model: keras.Model, format: str, path: pathlib.Path, options: Options
) -> None:
    """Writes a model in a format, in another process if necessary."""
    needs_tensorflow = "tensorflow" in FORMATS[format].packages
    if needs_tensorflow and backend() != "tensorflow":
        elsewhere.write_with_tensorflow(model, format, path, options)
        return
    try:
        FORMATS[format].write(model, path, options)
    except OSError:
        raise
    except Exception as error:
        if needs_tensorflow:
            saved_model.check_traceable(model, error)
        raise


def main(folder: str) -> None:
    """Entry point of the process that `write_with_tensorflow` starts."""
    elsewhere.write_here(folder, write)
