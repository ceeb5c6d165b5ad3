"""Export to deployment formats: `export`, `load_packed`."""

from keras_bimp._src.exporting.export import export
from keras_bimp._src.exporting.packed import load_packed
from keras_bimp._src.exporting.packed import unpack

__all__ = ["export", "load_packed", "unpack"]
