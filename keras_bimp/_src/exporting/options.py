"""Options of the export formats."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

# How LiteRT can store weights and compute. A packed file allows only
# `INT8_WEIGHTS`.
INT8_WEIGHTS = "int8_weights"
QUANTIZATIONS = ("int8", INT8_WEIGHTS, "float16")


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a writer; see `export`.

    Args:
        signatures: Name -> callable, for a SavedModel.
        labels: Names of the classes, for a SavedModel.
        top_k: How many classes `classify` returns.
        warmup: Inputs for warm-up requests, for a SavedModel.
        quantize: `None` or one of `QUANTIZATIONS`, for LiteRT and packed
            files.
        calibration: Inputs to calibrate the ranges with, for LiteRT.
        sparse_tensors: Whether LiteRT omits zeros.
        sparse_kernels: `False`, `True`, or `"auto"`, for a SavedModel.
        batch_sizes: The batch sizes that `"auto"` measures.
        examples: The inputs that `"auto"` measures with.
        tell: Callable that reports progress; see `waiting`.
    """

    signatures: dict[str, Callable] | None = None
    labels: Sequence[str] | None = None
    top_k: int = 5
    warmup: list[np.ndarray] | None = None
    quantize: str | None = None
    calibration: list[np.ndarray] | None = None
    sparse_tensors: bool = False
    sparse_kernels: bool | str = False
    batch_sizes: Sequence[int] = (1, 32)
    examples: list[np.ndarray] | None = None
    tell: Callable = lambda step, done=0, total=None: None
