"""Weight selection: criteria, allocations, granularities."""

from keras_bimp._src.kernel_layout import Layout
from keras_bimp._src.selection.allocations import Ranking
from keras_bimp._src.selection.allocations import Shares
from keras_bimp._src.selection.allotments import Allocation
from keras_bimp._src.selection.allotments import Allotment
from keras_bimp._src.selection.allotments import Candidate
from keras_bimp._src.selection.criteria import Criterion
from keras_bimp._src.selection.criteria import Magnitude
from keras_bimp._src.selection.criteria import Random
from keras_bimp._src.selection.criteria import Saliency
from keras_bimp._src.selection.granularities import NM
from keras_bimp._src.selection.granularities import Block
from keras_bimp._src.selection.granularities import Filter
from keras_bimp._src.selection.granularities import Granularity
from keras_bimp._src.selection.granularities import Unit
from keras_bimp._src.selection.granularities import Weight
from keras_bimp._src.selection.policy import LayerSparsity

__all__ = [
    "NM",
    "Allocation",
    "Allotment",
    "Block",
    "Candidate",
    "Criterion",
    "Filter",
    "Granularity",
    "LayerSparsity",
    "Layout",
    "Magnitude",
    "Random",
    "Ranking",
    "Saliency",
    "Shares",
    "Unit",
    "Weight",
]
