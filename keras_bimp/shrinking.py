"""Find filters and units that must be removed together."""

from keras_bimp._src.shrinking.coupling import filter_groups
from keras_bimp._src.shrinking.coupling import find_groups
from keras_bimp._src.shrinking.coupling import find_units

__all__ = [
    "filter_groups",
    "find_groups",
    "find_units",
]
