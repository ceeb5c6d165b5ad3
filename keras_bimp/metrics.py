"""Metrics of a pruned model: sparsity, multiply-adds, stability."""

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
from keras_bimp._src.renamed import renamed as _renamed

__all__ = [
    "Call",
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

__getattr__ = _renamed(
    __name__,
    {
        "count_flops": "keras_bimp.metrics.count_macs",
        "Flops": "keras_bimp.metrics.Macs",
        "LayerFlops": "keras_bimp.metrics.LayerMacs",
    },
)
