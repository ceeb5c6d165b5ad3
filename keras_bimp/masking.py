"""Mask rules: how a layer uses its kernel and mask."""

from keras_bimp._src.masking.mask_rules import Hard
from keras_bimp._src.masking.mask_rules import Rule

__all__ = [
    "Hard",
    "Rule",
]
