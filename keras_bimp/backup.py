"""Backups: resume a killed training."""

from keras_bimp._src.backup.epoch_data import EpochData
from keras_bimp._src.backup.generations import UnreadableError
from keras_bimp._src.backup.resumable import Resumable

__all__ = [
    "EpochData",
    "Resumable",
    "UnreadableError",
]
