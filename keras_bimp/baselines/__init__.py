"""Pruning-stable methods, which the paper compares with: one recipe each."""

from keras_bimp.baselines.cyclic import Cyclic
from keras_bimp.baselines.global_sparse_momentum import GlobalSparseMomentum
from keras_bimp.baselines.gradual_pruning import GradualPruning
from keras_bimp.baselines.learned_recipes import cs
from keras_bimp.baselines.learned_recipes import dst
from keras_bimp.baselines.learned_recipes import str  # noqa: F401
from keras_bimp.baselines.learned_rules import SigmoidGate
from keras_bimp.baselines.learned_rules import SoftThreshold
from keras_bimp.baselines.learned_rules import StepThreshold
from keras_bimp.baselines.recipes import Recipe
from keras_bimp.baselines.recipes import dnw
from keras_bimp.baselines.recipes import dpf
from keras_bimp.baselines.recipes import gmp
from keras_bimp.baselines.recipes import gradual_sparsities
from keras_bimp.baselines.recipes import gsm
from keras_bimp.baselines.recipes import lc
from keras_bimp.baselines.rules import DecayOutsideTop
from keras_bimp.baselines.rules import Soft
from keras_bimp.baselines.rules import StraightThrough
from keras_bimp.baselines.rules import TopWeights

# Not `str`: `import *` would hide Python's own.
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
    "cs",
    "dnw",
    "dpf",
    "dst",
    "gmp",
    "gradual_sparsities",
    "gsm",
    "lc",
]
