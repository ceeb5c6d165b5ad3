"""Sparse matrix products for the kernels of a SavedModel."""

from keras_bimp._src.exporting.sparse_kernels.candidates import candidates
from keras_bimp._src.exporting.sparse_kernels.candidates import check_types
from keras_bimp._src.exporting.sparse_kernels.measured_choice import choose_all
from keras_bimp._src.exporting.sparse_kernels.measured_choice import (
    choose_by_time,
)
from keras_bimp._src.exporting.sparse_kernels.measured_choice import sparse_ones
from keras_bimp._src.exporting.sparse_kernels.swapped_calls import sparse
from keras_bimp._src.exporting.sparse_kernels.xla_check import (
    check_not_compiled,
)
from keras_bimp._src.kernel_choices import KernelChoice
from keras_bimp._src.kernel_choices import SparseKernels
from keras_bimp._src.kernel_choices import last_choices
from keras_bimp._src.kernel_choices import read
from keras_bimp._src.kernel_choices import remember
from keras_bimp._src.kernel_choices import write

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
