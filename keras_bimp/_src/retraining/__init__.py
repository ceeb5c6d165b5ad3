"""Pruning and retraining: `prune`, and the callbacks that execute a plan."""

from keras_bimp._src.retraining.accuracy import Accuracy
from keras_bimp._src.retraining.batch_norm import recalibrate_batch_norm
from keras_bimp._src.retraining.loss_gradients import gradients
from keras_bimp._src.retraining.prune_and_retrain import PruneAndRetrain
from keras_bimp._src.retraining.pruning import Pruning
from keras_bimp._src.retraining.pruning import prune
from keras_bimp._src.retraining.pruning_callbacks import callbacks
from keras_bimp._src.retraining.recording import RecordLearningRate
from keras_bimp._src.retraining.samples import Samples

__all__ = [
    "Accuracy",
    "PruneAndRetrain",
    "Pruning",
    "RecordLearningRate",
    "Samples",
    "callbacks",
    "gradients",
    "prune",
    "recalibrate_batch_norm",
]
