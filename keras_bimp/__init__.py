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
from keras_bimp import sparsity_schedules
from keras_bimp._src.backup import Backup
from keras_bimp._src.exporting import export
from keras_bimp._src.fitting import fit
from keras_bimp._src.layer_sensitivity import Sensitivity
from keras_bimp._src.layer_sensitivity import sensitivity
from keras_bimp._src.masking import Masked
from keras_bimp._src.masking import strip
from keras_bimp._src.masking import wrap
from keras_bimp._src.metrics import sparsity
from keras_bimp._src.plan import Phase
from keras_bimp._src.plan import Plan
from keras_bimp._src.reporting import PruningSummaries
from keras_bimp._src.reporting import report
from keras_bimp._src.retraining import Pruning
from keras_bimp._src.retraining import RecordLearningRate
from keras_bimp._src.retraining import callbacks
from keras_bimp._src.retraining import prune
from keras_bimp._src.retraining import recalibrate_batch_norm
from keras_bimp._src.selection import select
from keras_bimp._src.shrinking import shrink
from keras_bimp._src.version import __version__

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
    "sparsity_schedules",
    "strip",
    "wrap",
]
