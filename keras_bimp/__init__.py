"""keras_bimp: pruning for Keras 3."""

from keras_bimp import backup
from keras_bimp import baselines
from keras_bimp import exporting
from keras_bimp import masking
from keras_bimp import metrics
from keras_bimp import reporting
from keras_bimp import schedules
from keras_bimp import selection
from keras_bimp import shrinking
from keras_bimp import sparsity
from keras_bimp.backup import Backup
from keras_bimp.exporting import export
from keras_bimp.fitting import fit
from keras_bimp.layer_sensitivity import Sensitivity
from keras_bimp.layer_sensitivity import sensitivity
from keras_bimp.masking import Masked
from keras_bimp.masking import strip
from keras_bimp.masking import wrap
from keras_bimp.plan import Phase
from keras_bimp.plan import Plan
from keras_bimp.reporting import PruningSummaries
from keras_bimp.reporting import report
from keras_bimp.retraining import Pruning
from keras_bimp.retraining import RecordLearningRate
from keras_bimp.retraining import callbacks
from keras_bimp.retraining import prune
from keras_bimp.retraining import recalibrate_batch_norm
from keras_bimp.selection import select
from keras_bimp.shrinking import shrink
from keras_bimp.version import __version__

__all__ = [
    "Backup",
    "Masked",
    "Phase",
    "Plan",
    "Pruning",
    "PruningSummaries",
    "RecordLearningRate",
    "Sensitivity",
    "__version__",
    "backup",
    "baselines",
    "callbacks",
    "export",
    "exporting",
    "fit",
    "masking",
    "metrics",
    "prune",
    "recalibrate_batch_norm",
    "report",
    "reporting",
    "schedules",
    "select",
    "selection",
    "sensitivity",
    "shrink",
    "shrinking",
    "sparsity",
    "strip",
    "wrap",
]
