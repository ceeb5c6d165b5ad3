"""Mask rules: what a masked kernel computes with."""

from keras_bimp._src.masking.mask_rules import Hard
from keras_bimp._src.masking.mask_rules import Rule

__all__ = [
    "Hard",
    "Rule",
]
