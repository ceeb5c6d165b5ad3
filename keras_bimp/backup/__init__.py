"""Trainings that go on after a crash: `Backup`, `EpochData`."""

from keras_bimp.backup.during_fit import Backup
from keras_bimp.backup.epoch_data import EpochData
from keras_bimp.backup.generations import Generations
from keras_bimp.backup.generations import UnreadableError
from keras_bimp.backup.resumable import Resumable

__all__ = [
    "Backup",
    "EpochData",
    "Generations",
    "Resumable",
    "UnreadableError",
]
