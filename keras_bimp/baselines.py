"""The pruning-stable methods that the paper compares with, as recipes.

Each has a full name and the paper's short one: `gmp` and
`gradual_magnitude_pruning` are the same function. `str` is not part of
`import *`, because it would hide Python's own.
"""

from keras_bimp._src.baselines.cyclic import Cyclic
from keras_bimp._src.baselines.global_sparse_momentum import (
    GlobalSparseMomentum,
)
from keras_bimp._src.baselines.gradual_pruning import GradualPruning
from keras_bimp._src.baselines.learned_recipes import cs
from keras_bimp._src.baselines.learned_recipes import dst
from keras_bimp._src.baselines.learned_recipes import (
    soft_threshold_reparameterization,
)
from keras_bimp._src.baselines.learned_rules import SigmoidGate
from keras_bimp._src.baselines.learned_rules import SoftThreshold
from keras_bimp._src.baselines.learned_rules import StepThreshold
from keras_bimp._src.baselines.magnitude_rules import DecayOutsideTop
from keras_bimp._src.baselines.magnitude_rules import Soft
from keras_bimp._src.baselines.magnitude_rules import StraightThrough
from keras_bimp._src.baselines.magnitude_rules import TopWeights
from keras_bimp._src.baselines.recipes import Recipe
from keras_bimp._src.baselines.recipes import dnw
from keras_bimp._src.baselines.recipes import dpf
from keras_bimp._src.baselines.recipes import gmp
from keras_bimp._src.baselines.recipes import gradual_sparsities
from keras_bimp._src.baselines.recipes import gsm
from keras_bimp._src.baselines.recipes import lc

continuous_sparsification = cs
discovering_neural_wirings = dnw
dynamic_pruning_with_feedback = dpf
dynamic_sparse_training = dst
global_sparse_momentum = gsm
gradual_magnitude_pruning = gmp
learning_compression = lc
str = soft_threshold_reparameterization

__all__ = [
    "Cyclic",
    "DecayOutsideTop",
    "GlobalSparseMomentum",
    "GradualPruning",
    "Recipe",
    "SigmoidGate",
    "Soft",
    "SoftThreshold",
    "StepThreshold",
    "StraightThrough",
    "TopWeights",
    "continuous_sparsification",
    "cs",
    "discovering_neural_wirings",
    "dnw",
    "dpf",
    "dst",
    "dynamic_pruning_with_feedback",
    "dynamic_sparse_training",
    "global_sparse_momentum",
    "gmp",
    "gradual_magnitude_pruning",
    "gradual_sparsities",
    "gsm",
    "lc",
    "learning_compression",
    "soft_threshold_reparameterization",
]
