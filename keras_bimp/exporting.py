"""Load packed model files."""

from keras_bimp._src.exporting.packed import load_packed
from keras_bimp._src.exporting.packed import unpack

__all__ = [
    "load_packed",
    "unpack",
]
