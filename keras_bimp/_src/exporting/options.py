"""What the formats can be asked for."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

# How LiteRT can be asked to store weights, and to compute. A packed file takes
# one of these.
INT8_WEIGHTS = "int8_weights"
QUANTIZATIONS = ("int8", INT8_WEIGHTS, "float16")


@dataclasses.dataclass(frozen=True)
class Options:
    """What a writer is asked for; see `export`.

    Args:
        signatures: Name -> callable, of a SavedModel.
        labels: Names of the classes, of a SavedModel.
        top_k: How many of them it tells.
        warmup: Inputs for warm-up requests, of a SavedModel.
        quantize: `None` or one of `QUANTIZATIONS`, of LiteRT and packed files.
        calibration: Inputs to find the ranges with, of LiteRT.
        sparse_tensors: Whether LiteRT leaves zeros away.
        sparse_kernels: `False`, `True`, or `"auto"`, of a SavedModel.
        batch_sizes: Those that `"auto"` measures.
        examples: Inputs that it measures with.
        tell: Takes up how far the writing came; see `waiting`.
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
