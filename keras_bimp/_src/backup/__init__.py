"""Resume training after a crash: `Backup`, `EpochData`."""

from keras_bimp._src.backup.backup_callback import Backup
from keras_bimp._src.backup.epoch_data import EpochData
from keras_bimp._src.backup.generations import Generations
from keras_bimp._src.backup.generations import UnreadableError
from keras_bimp._src.backup.resumable import Resumable

__all__ = [
    "Backup",
    "EpochData",
    "Generations",
    "Resumable",
    "UnreadableError",
]
