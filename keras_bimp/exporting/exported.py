"""What `export` returns."""

import pathlib

from keras_bimp.exporting.sparse_kernels import SparseKernels


class Exported(type(pathlib.Path())):
    """The path that was written.

    Attributes:
        sparse_kernels: What has become of each kernel; `None` unless `export`
            was asked for sparse ones.
    """

    sparse_kernels: SparseKernels | None = None
