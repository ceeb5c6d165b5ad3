"""Weight selection: criterion, granularity, allocation, exact choice."""

from keras_bimp._src.kernel_layout import Layout
from keras_bimp._src.selection.allocations import ALLOCATIONS
from keras_bimp._src.selection.allocations import Ranking
from keras_bimp._src.selection.allocations import Shares
from keras_bimp._src.selection.allotments import Allocation
from keras_bimp._src.selection.allotments import Candidate
from keras_bimp._src.selection.choosing import Chosen
from keras_bimp._src.selection.choosing import choose
from keras_bimp._src.selection.choosing import norms
from keras_bimp._src.selection.coupled import Coupled
from keras_bimp._src.selection.criteria import CRITERIA
from keras_bimp._src.selection.criteria import Criterion
from keras_bimp._src.selection.criteria import Magnitude
from keras_bimp._src.selection.criteria import Random
from keras_bimp._src.selection.criteria import Saliency
from keras_bimp._src.selection.granularities import GRANULARITIES
from keras_bimp._src.selection.granularities import NM
from keras_bimp._src.selection.granularities import Block
from keras_bimp._src.selection.granularities import Filter
from keras_bimp._src.selection.granularities import Granularity
from keras_bimp._src.selection.granularities import Unit
from keras_bimp._src.selection.granularities import Weight
from keras_bimp._src.selection.granularities import as_granularity
from keras_bimp._src.selection.policy import ON_COLLAPSE
from keras_bimp._src.selection.policy import LayerSparsity
from keras_bimp._src.selection.policy import Policy
from keras_bimp._src.selection.policy import as_policy
from keras_bimp._src.selection.policy import by_kernel
from keras_bimp._src.selection.selecting import select
from keras_bimp._src.selection.shards import Shards
from keras_bimp._src.selection.shards import counts
from keras_bimp._src.selection.shards import digests
from keras_bimp._src.selection.structures import Part
from keras_bimp._src.selection.structures import Structures

__all__ = [
    "ALLOCATIONS",
    "CRITERIA",
    "GRANULARITIES",
    "NM",
    "ON_COLLAPSE",
    "Allocation",
    "Block",
    "Candidate",
    "Chosen",
    "Coupled",
    "Criterion",
    "Filter",
    "Granularity",
    "LayerSparsity",
    "Layout",
    "Magnitude",
    "Part",
    "Policy",
    "Random",
    "Ranking",
    "Saliency",
    "Shards",
    "Shares",
    "Structures",
    "Unit",
    "Weight",
    "as_granularity",
    "as_policy",
    "by_kernel",
    "choose",
    "counts",
    "digests",
    "norms",
    "select",
]
