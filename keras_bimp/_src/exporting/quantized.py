"""Models that Keras has quantized, or that have LoRA, are tried.

Whether a converter and a runtime compute what such a model does is not known
beforehand: it depends on the mode, on what stands around a layer, and on their
versions.
"""

import pathlib

import keras
import numpy as np

from keras_bimp._src.exporting.formats import FORMATS
from keras_bimp._src.exporting.formats import how_to_install
from keras_bimp._src.exporting.formats import is_installed
from keras_bimp._src.exporting.inputs import outputs_of
from keras_bimp._src.exporting.packed import load_packed
from keras_bimp._src.exporting.remedies import kept_by_keras
from keras_bimp._src.exporting.remedies import remedy_of_quantized
from keras_bimp._src.exporting.remedies import told_of
from keras_bimp._src.exporting.verifying import check_same
from keras_bimp._src.keras_internals.layers import foreign_classes
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.keras_internals.quantization import is_quantized

# What Keras and TensorFlow run as it is.
_NOT_CONVERTED = ("tf_saved_model", "packed")


def check_can_be_verified(
    model: keras.Model, format: str, verify: bool
) -> None:
    """Raises where nothing but a run shows whether what is written is right."""
    quantized = any(map(is_quantized, layers_in(model)))
    if format in _NOT_CONVERTED or not quantized:
        return
    why = "some of these are converted and compute something else"
    if not verify:
        raise ValueError(
            "`verify` must be True for a model that Keras has quantized and "
            f"format={format!r}: {why}. "
            f"Received: verify={verify!r}, {told_of(model)}"
        )
    runtime = FORMATS[format].runtime
    if not is_installed(runtime):
        raise ImportError(
            f"`format={format!r}` needs {runtime} for a model that Keras has "
            f"quantized: {why}. {how_to_install(runtime)}"
        )


def check_not_quantized(model: keras.Model, quantize: str) -> None:
    """Raises ValueError if Keras has quantized what is to be quantized."""
    if any(map(is_quantized, layers_in(model))):
        raise ValueError(
            "`quantize` must be None for a model that Keras has quantized: "
            "export it as it is, or the model as it was before. "
            f"Received: quantize={quantize!r}, {told_of(model)}"
        )


def verify_packed(
    model: keras.Model,
    path: pathlib.Path,
    inputs: list[np.ndarray],
    expected: list[np.ndarray],
    tolerance: float,
) -> float:
    """Loads a packed file, and compares what it computes with the model.

    Of a layer with LoRA a file holds the sum, rounded again if it is quantized.

    Returns:
        The largest difference, relative to the largest output.

    Raises:
        RuntimeError: If it computes something else.
        ValueError: If Keras cannot load it.
    """
    with kept_by_keras(model):
        again = load_packed(
            path, foreign_classes(model), compile=False, safe_mode=False
        )
    found = outputs_of(again, inputs)
    remedy = remedy_of_quantized(model, "packed")
    return check_same(found, expected, tolerance, remedy)
