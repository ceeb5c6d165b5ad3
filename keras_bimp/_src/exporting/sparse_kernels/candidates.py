"""The kernels that can be sparse, and why the others cannot."""

import math
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from keras_bimp._src.backends import count_nonzero
from keras_bimp._src.exporting.sparse_kernels import contracting
from keras_bimp._src.exporting.sparse_kernels import convolving
from keras_bimp._src.exporting.sparse_kernels import (
    recurrent_inputs as recurrent,
)
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.keras_internals.layers import own_variables

# Type of layer -> the module with `refuses`, `matrix` and `call` for it.
_KINDS = {
    layers.Conv1D: convolving,
    layers.Conv2D: convolving,
    layers.Conv3D: convolving,
    layers.Dense: contracting,
    layers.EinsumDense: contracting,
    layers.GRU: recurrent,
    layers.LSTM: recurrent,
}
_TYPES = ("float32", "float64")

# From this sparsity, a sparse matrix, which stores a value and a column for
# each nonzero entry, is smaller than a dense one.
_LEAST = 0.5


class Candidate(NamedTuple):
    """A kernel, and whether it can be sparse.

    Attributes:
        path: The kernel's path.
        shape: The kernel's shape.
        sparsity: The kernel's fraction of zeros.
        layer: The layer that is called.
        computing: The layer that computes in its place: itself, or a copy
            with batch normalization folded into it.
        reason: Why it cannot be sparse; `None` if it can.
    """

    path: str
    shape: tuple[int, ...]
    sparsity: float
    layer: keras.Layer
    computing: keras.Layer
    reason: str | None

    @property
    def kind(self):
        """The module that implements this kind of layer."""
        return _KINDS[type(self.layer)]

    def matrix(self) -> np.ndarray:
        """The kernel as a matrix of shape (outputs, inputs)."""
        array = self.kind.matrix(self.computing)
        return array.astype(self.layer.compute_dtype)


def candidates(
    model: keras.Model, merged: dict[int, keras.Layer]
) -> list[Candidate]:
    """Lists all prunable kernels of a model.

    Args:
        model: A plain, built model.
        merged: The result of `folding.folded`.
    """
    owners, found = {}, {}
    for layer in layers_in(model):
        if type(layer) in _KINDS:
            owners.setdefault(id(_kernel(layer)), layer)
    for layer in layers_in(model):
        for variable in _own_kernels(layer):
            owner = owners.get(id(variable), layer)
            size = math.prod(variable.shape)
            candidate = Candidate(
                variable.path,
                tuple(variable.shape),
                1 - count_nonzero(variable.value) / max(size, 1),
                owner,
                merged.get(id(owner), owner),
                None,
            )
            reason = (
                _reason(candidate, merged)
                if id(variable) in owners
                else f"no sparse product for {type(layer).__name__}"
            )
            candidate = candidate._replace(reason=reason)
            found.setdefault(id(variable), candidate)
    return list(found.values())


def check_types(model: keras.Model) -> None:
    """Raises ValueError if there is no sparse product in a kernel's type."""
    for candidate in candidates(model, {}):
        if candidate.reason and candidate.reason.startswith(_IN):
            layer = candidate.layer
            raise ValueError(
                "`sparse_kernels` must be 'auto' or False for a model that "
                f"computes in {layer.compute_dtype}, because TensorFlow has no "
                "sparse product. Received: sparse_kernels=True and layer "
                f"'{layer.path or layer.name}'. 'auto' leaves such kernels "
                "dense"
            )


def _own_kernels(layer):
    """Returns the prunable kernels that a layer itself holds."""
    return [
        variable
        for variable in own_variables(layer)
        if len(variable.shape) > 1
        and variable.name.endswith("kernel")
        and keras.backend.is_float_dtype(variable.dtype)
    ]


def _kernel(layer):
    """Returns the variable that a sparse kernel would replace."""
    holding = layer.cell if isinstance(layer, layers.RNN) else layer
    own = _own_kernels(holding)
    known = [v for v in own if not v.name.startswith("recurrent")]
    return known[0] if known else None


def _reason(candidate, merged):
    layer = candidate.layer
    if candidate.sparsity < _LEAST:
        return "less than half zeros"
    if layer.compute_dtype not in _TYPES:
        return f"{_IN} {layer.compute_dtype}"
    if getattr(layer, "quantization_mode", None) or getattr(
        layer, "lora_enabled", False
    ):
        return "it is quantized or has LoRA"
    if "call" in vars(layer) and id(layer) not in merged:
        return "its `call` was replaced"
    return candidate.kind.refuses(layer)


_IN = "TensorFlow has no sparse product in"
