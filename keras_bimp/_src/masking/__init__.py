"""Masks: the `Masked` layer, mask rules, `wrap` and `strip`."""

from keras_bimp._src.masking.compiled_alike import compile_like
from keras_bimp._src.masking.compiled_alike import given_metrics
from keras_bimp._src.masking.compiled_alike import reset_given_metrics
from keras_bimp._src.masking.holding import copy_masks
from keras_bimp._src.masking.holding import drop_copies
from keras_bimp._src.masking.holding import hold_zeros
from keras_bimp._src.masking.holding import kernels_to_hold
from keras_bimp._src.masking.mask_rules import Hard
from keras_bimp._src.masking.mask_rules import Rule
from keras_bimp._src.masking.masked import Masked
from keras_bimp._src.masking.masked import masked_layers
from keras_bimp._src.masking.masked import others_that_mask
from keras_bimp._src.masking.masked import state_variables
from keras_bimp._src.masking.prunable import Kernel
from keras_bimp._src.masking.prunable import Prunables
from keras_bimp._src.masking.prunable import as_filter
from keras_bimp._src.masking.prunable import find_prunable
from keras_bimp._src.masking.prunable import unique_paths
from keras_bimp._src.masking.stripping import masked_kernels
from keras_bimp._src.masking.stripping import strip
from keras_bimp._src.masking.tasks import has_own_steps
from keras_bimp._src.masking.tasks import how_to_mask
from keras_bimp._src.masking.wrapping import MaskedModel
from keras_bimp._src.masking.wrapping import wrap

__all__ = [
    "Hard",
    "Kernel",
    "Masked",
    "MaskedModel",
    "Prunables",
    "Rule",
    "as_filter",
    "compile_like",
    "copy_masks",
    "drop_copies",
    "find_prunable",
    "given_metrics",
    "has_own_steps",
    "hold_zeros",
    "how_to_mask",
    "kernels_to_hold",
    "masked_kernels",
    "masked_layers",
    "others_that_mask",
    "reset_given_metrics",
    "state_variables",
    "strip",
    "unique_paths",
    "wrap",
]
