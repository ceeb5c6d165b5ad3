"""Pruning and retraining: `prune`, and the callbacks that carry a plan out."""

from keras_bimp.retraining.during_fit import callbacks
from keras_bimp.retraining.prune_and_retrain import PruneAndRetrain
from keras_bimp.retraining.pruning import Pruning
from keras_bimp.retraining.pruning import prune

__all__ = ["PruneAndRetrain", "Pruning", "callbacks", "prune"]
