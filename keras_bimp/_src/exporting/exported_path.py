"""What `export` returns."""

import pathlib

from keras_bimp._src.exporting.sparse_kernels import SparseKernels


class Exported(type(pathlib.Path())):  # type: ignore[misc]
    """The path that was written.

    Attributes:
        sparse_kernels: What has become of each kernel; `None` unless `export`
            was asked for sparse ones.
        difference: How far the outputs of what was written were off when it
            was verified, relative to the largest; `None` if it was not.
    """

    difference: float | None = None
    sparse_kernels: SparseKernels | None = None
