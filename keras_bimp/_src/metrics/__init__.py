"""Metrics of a pruned model: how sparse, how much work, how stable."""

from keras_bimp._src.metrics.effective_kernels import EffectiveKernels
from keras_bimp._src.metrics.layer_work import Work
from keras_bimp._src.metrics.macs import LayerMacs
from keras_bimp._src.metrics.macs import Macs
from keras_bimp._src.metrics.macs import count_macs
from keras_bimp._src.metrics.macs import theoretical_speedup
from keras_bimp._src.metrics.sparsity import Sparsity
from keras_bimp._src.metrics.sparsity import sparsity
from keras_bimp._src.metrics.stability import pruning_stability
from keras_bimp._src.metrics.throughput import Throughput
from keras_bimp._src.metrics.throughput import train_throughput
from keras_bimp._src.metrics.tracing import Call
from keras_bimp._src.metrics.units import units

__all__ = [
    "Call",
    "EffectiveKernels",
    "LayerMacs",
    "Macs",
    "Sparsity",
    "Throughput",
    "Work",
    "count_macs",
    "pruning_stability",
    "sparsity",
    "theoretical_speedup",
    "train_throughput",
    "units",
]
