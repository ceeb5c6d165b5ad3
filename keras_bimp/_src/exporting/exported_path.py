"""The path that `export` returns."""

import pathlib

from keras_bimp._src.exporting.sparse_kernels import SparseKernels


class Exported(type(pathlib.Path())):  # type: ignore[misc]
    """The path that was written.

    Attributes:
        sparse_kernels: Whether each kernel is sparse; `None` unless `export`
            was called with `sparse_kernels` or `sparse_tensors`.
        difference: The largest difference of outputs when the exported model
            was verified, relative to the largest output; `None` if it was not.
    """

    difference: float | None = None
    sparse_kernels: SparseKernels | None = None
