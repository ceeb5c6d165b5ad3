"""Shrinking: removes the channels that pruning left unused."""

from keras_bimp._src.shrinking.coupling import filter_groups
from keras_bimp._src.shrinking.coupling import find_groups
from keras_bimp._src.shrinking.coupling import find_units
from keras_bimp._src.shrinking.shrink import shrink

__all__ = ["filter_groups", "find_groups", "find_units", "shrink"]
