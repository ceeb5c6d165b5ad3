"""Which weights stay: criterion, granularity, allocation, exact choice."""

from keras_bimp.layout import Layout
from keras_bimp.selection.allocations import ALLOCATIONS
from keras_bimp.selection.allocations import Allocation
from keras_bimp.selection.allocations import Ranking
from keras_bimp.selection.allocations import Shares
from keras_bimp.selection.criteria import CRITERIA
from keras_bimp.selection.criteria import Criterion
from keras_bimp.selection.criteria import Magnitude
from keras_bimp.selection.criteria import Random
from keras_bimp.selection.criteria import Saliency
from keras_bimp.selection.granularities import GRANULARITIES
from keras_bimp.selection.granularities import NM
from keras_bimp.selection.granularities import Block
from keras_bimp.selection.granularities import Filter
from keras_bimp.selection.granularities import Granularity
from keras_bimp.selection.granularities import Weight
from keras_bimp.selection.rules import ON_COLLAPSE
from keras_bimp.selection.rules import LayerSparsity
from keras_bimp.selection.rules import Rules
from keras_bimp.selection.rules import as_rules
from keras_bimp.selection.rules import by_kernel
from keras_bimp.selection.selecting import Chosen
from keras_bimp.selection.selecting import choose
from keras_bimp.selection.selecting import norms
from keras_bimp.selection.selecting import select

__all__ = [
    "ALLOCATIONS",
    "CRITERIA",
    "GRANULARITIES",
    "NM",
    "ON_COLLAPSE",
    "Allocation",
    "Block",
    "Chosen",
    "Criterion",
    "Filter",
    "Granularity",
    "LayerSparsity",
    "Layout",
    "Magnitude",
    "Random",
    "Ranking",
    "Rules",
    "Saliency",
    "Shares",
    "Weight",
    "as_rules",
    "by_kernel",
    "choose",
    "norms",
    "select",
]
