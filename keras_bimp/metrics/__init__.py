"""Metrics of a pruned model: how sparse, how much work, how stable."""

from keras_bimp.metrics.effective import EffectiveKernels
from keras_bimp.metrics.multiply_adds import Flops
from keras_bimp.metrics.multiply_adds import LayerFlops
from keras_bimp.metrics.multiply_adds import count_flops
from keras_bimp.metrics.multiply_adds import theoretical_speedup
from keras_bimp.metrics.rules import Work
from keras_bimp.metrics.sparsity import Sparsity
from keras_bimp.metrics.sparsity import sparsity
from keras_bimp.metrics.stability import pruning_stability
from keras_bimp.metrics.throughput import Throughput
from keras_bimp.metrics.throughput import train_throughput
from keras_bimp.metrics.tracing import Call
from keras_bimp.metrics.units import units

__all__ = [
    "Call",
    "EffectiveKernels",
    "Flops",
    "LayerFlops",
    "Sparsity",
    "Throughput",
    "Work",
    "count_flops",
    "pruning_stability",
    "sparsity",
    "theoretical_speedup",
    "train_throughput",
    "units",
]
