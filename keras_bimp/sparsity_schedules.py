"""Sparsity schedules: progress in [0, 1] -> sparsity, as plain functions."""

from keras_bimp._src.sparsity_schedules import PolynomialDecay
from keras_bimp._src.sparsity_schedules import cubic
from keras_bimp._src.sparsity_schedules import geometric

__all__ = [
    "PolynomialDecay",
    "cubic",
    "geometric",
]
