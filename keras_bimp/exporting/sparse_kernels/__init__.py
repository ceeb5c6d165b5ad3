"""Kernels that a SavedModel multiplies as sparse matrices."""

from keras_bimp.exporting.sparse_kernels.choosing import choose_all
from keras_bimp.exporting.sparse_kernels.choosing import choose_by_time
from keras_bimp.exporting.sparse_kernels.choosing import sparse_ones
from keras_bimp.exporting.sparse_kernels.compiling import check_not_compiled
from keras_bimp.exporting.sparse_kernels.kernels import candidates
from keras_bimp.exporting.sparse_kernels.kernels import check_types
from keras_bimp.exporting.sparse_kernels.within import sparse
from keras_bimp.kernel_choices import KernelChoice
from keras_bimp.kernel_choices import SparseKernels
from keras_bimp.kernel_choices import last_choices
from keras_bimp.kernel_choices import read
from keras_bimp.kernel_choices import remember
from keras_bimp.kernel_choices import write

__all__ = [
    "KernelChoice",
    "SparseKernels",
    "candidates",
    "check_not_compiled",
    "check_types",
    "choose_all",
    "choose_by_time",
    "last_choices",
    "read",
    "remember",
    "sparse",
    "sparse_ones",
    "write",
]
