"""Granularities: the units that are pruned, from weights to filters."""

import math
import re

import numpy as np

from keras_bimp._src.checks import check_choice
from keras_bimp._src.checks import check_integer
from keras_bimp._src.kernel_layout import Layout
from keras_bimp._src.selection.scores import PRUNED
from keras_bimp._src.selection.scores import Scores
from keras_bimp._src.selection.scores import amounts


class Granularity:
    """Base class: converts weight scores to unit scores and back.

    Attributes:
        unit: Name of the units, in the plural.
        least: The fewest units that do not count as collapse, in words.
        default_allocation: Name of its usual allocation; `None` if the
            granularity itself fixes how many units each kernel keeps.
        sparsity: The sparsity of each kernel if it is fixed, or `None`.

    Example:

    >>> keras_bimp.selection.Block((4, 1)).unit
    '4x1 blocks'
    >>> keras_bimp.selection.NM(2, 4).sparsity
    0.5
    """

    unit = "units"
    least = "one unit"
    default_allocation: str | None = "global"
    sparsity: float | None = None

    def refuses(self, layout: Layout) -> str | None:
        """Return why a kernel cannot be pruned, or `None` if it can."""
        return None

    def scores(self, scores: Scores, mask, layout: Layout) -> Scores:
        """Return the scores of a kernel's units.

        Args:
            scores: The scores of its weights.
            mask: Boolean array, False where a weight is already pruned.
            layout: Its `Layout`.
        """
        raise NotImplementedError

    def expand(self, kept, mask, layout: Layout) -> np.ndarray:
        """Return the new mask of a kernel that keeps the units `kept`."""
        raise NotImplementedError

    def floor(self, shape, layout: Layout) -> int:
        """Return the fewest units that do not count as collapse."""
        raise NotImplementedError


class Weight(Granularity):
    """Single weights: unstructured pruning.

    Example:

    >>> kernels = [np.array([[-3.0], [1.0]])]
    >>> keras_bimp.select(kernels, 0.5, granularity="weight")
    [array([[ True], [False]])]
    """

    unit = "weights"
    least = "one weight per output unit"

    def scores(self, scores, mask, layout):
        return scores if mask.all() else scores.where(mask)

    def expand(self, kept, mask, layout):
        return kept

    def floor(self, shape, layout):
        return layout.output_units(shape)


class Filter(Granularity):
    """Whole convolution filters, ranked by the norm of their scores.

    A filter is all weights that compute one output channel. Kernels of other
    layers have no filters and are left unchanged. A filter counts as pruned if
    all its weights are.

    Args:
        norm: `"l2"` or `"l1"`.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value that cannot be.

    Example:

    >>> kernels = [np.arange(18.0).reshape(1, 3, 3, 2)]
    >>> filters = keras_bimp.selection.Filter("l1")
    >>> masks = keras_bimp.select(kernels, 0.5, granularity=filters)
    >>> masks[0].all(axis=(0, 1, 2))
    array([False,  True])

    Reference:

    - Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient
      ConvNets", ICLR 2017, Section 3.1.
    """

    unit = "filters"
    least = "one filter"
    default_allocation = "uniform"

    def __init__(self, norm: str = "l2"):
        check_choice("norm", norm, ("l2", "l1"))
        self.norm = norm

    def refuses(self, layout):
        return None if layout.convolution else "has no filters"

    def scores(self, scores, mask, layout):
        values = layout.matrices(amounts(scores, mask, "filter"))
        if not scores.measures:
            # A norm of random numbers would depend on the filter size.
            norms = layout.matrices(scores.array())[:1, :1].sum((0, 1))
        elif self.norm == "l2":
            # Squares of values <= 1 neither overflow nor vanish.
            largest = values.max(initial=0.0) or 1.0
            norms = largest * np.sqrt(np.square(values / largest).sum((0, 1)))
        else:
            norms = values.sum((0, 1))
        return Scores(norms, name=scores.name).where(
            layout.matrices(mask).any((0, 1))
        )

    def expand(self, kept, mask, layout):
        space, inputs, _ = layout.matrices(mask).shape
        filters = np.broadcast_to(kept, (space, inputs, len(kept)))
        return mask & layout.from_matrices(filters, mask.shape)

    def floor(self, shape, layout):
        return 1


class Unit(Filter):
    """Whole units of any layer, ranked by the norm of their weights.

    A unit is a filter of a convolution, a unit of a dense layer, a unit of an
    LSTM or GRU with all its gates, or an attention head. In a model, all
    weights that compute or read a unit are pruned with it. For example, the
    inner units of a transformer block are columns of one kernel and rows of
    the next. `shrink` then removes them. Units are kept if they are outputs of
    the model, or inputs of a layer whose width must not change, such as
    `LayerNormalization`.

    The score of a unit is the mean over its kernels of the norm of its
    weights, relative to the other units there. So the scores of different
    layers are comparable.

    `keras_bimp.select` does not see the model: without `groups`, each output
    of each kernel is one unit.

    Args:
        norm: `"l2"` or `"l1"`.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value that cannot be.

    Example:

    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8,)),
    ...         keras.layers.Dense(16, activation="relu"),
    ...         keras.layers.Dense(4),
    ...     ]
    ... )
    >>> wrapped = keras_bimp.wrap(model)
    >>> keras_bimp.prune(wrapped, 0.5, granularity="unit").units
    {'units of dense': (8, 16)}
    >>> small = keras_bimp.shrink(keras_bimp.strip(wrapped))
    >>> small.layers[0].units
    8

    Reference:

    - Michel, Levy, Neubig, "Are Sixteen Heads Really Better than One?",
      NeurIPS 2019.
    - Fang, Ma, Song, Mi, Wang, "DepGraph: Towards Any Structural Pruning",
      CVPR 2023 (what goes together).
    """

    unit = "units"
    least = "one unit"
    default_allocation = "coupled"

    def refuses(self, layout):
        return None


class Block(Granularity):
    """Blocks of weights, ranked by their mean score.

    `"1x4"` is `Block((4, 1))`: runs of 4 inputs of one output. LiteRT has a
    sparse dense kernel for this pattern and puts the outputs first in its
    name.

    Args:
        shape: Pair of integers: how many inputs and outputs a block spans. In
            a convolution a block lies at one spatial position. If the inputs
            or outputs are not a multiple, the last blocks are smaller.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value that cannot be.

    Example:

    >>> kernels = [np.array([[1.0, 5.0], [2.0, 1.0], [4.0, 3.0], [4.0, 2.0]])]
    >>> block = keras_bimp.selection.Block((2, 1))
    >>> masks = keras_bimp.select(kernels, 0.5, granularity=block)
    >>> masks[0].astype(int)
    array([[0, 1],
           [0, 1],
           [1, 0],
           [1, 0]])
    """

    def __init__(self, shape: tuple[int, int]):
        if not isinstance(shape, (tuple, list)) or len(shape) != 2:
            raise ValueError(
                "`shape` must be a pair (inputs, outputs). "
                f"Received: shape={shape!r}"
            )
        self.shape = tuple(check_integer("shape", n, minimum=1) for n in shape)

    least = "one block per output unit"

    @property
    def unit(self):
        return f"{self.shape[0]}x{self.shape[1]} blocks"

    def refuses(self, layout):
        if self.shape[0] == 1 or layout.inputs:
            return None
        return "has no input axis"

    def scores(self, scores, mask, layout):
        values = layout.matrices(amounts(scores, mask, "block"))
        sizes = self._blocks(np.ones(values.shape[1:])[None])
        alive = self._blocks(layout.matrices(mask))
        means = self._blocks(values).sum((2, 4)) / sizes.sum((2, 4))
        if not scores.measures:
            # A mean of random numbers would depend on the block size.
            random_numbers = layout.matrices(scores.array())
            means = self._blocks(random_numbers)[:, :, 0, :, 0]
        return Scores(means, name=scores.name).where(alive.any((2, 4)))

    def expand(self, kept, mask, layout):
        _, inputs, outputs = layout.matrices(mask).shape
        weights = kept.repeat(self.shape[0], 1).repeat(self.shape[1], 2)
        weights = weights[:, :inputs, :outputs]
        return mask & layout.from_matrices(weights, mask.shape)

    def floor(self, shape, layout):
        return math.ceil(layout.output_units(shape) / self.shape[1])

    def _blocks(self, matrices):
        """View matrices as (space, row, in, column, out), padded with 0."""
        high, wide = self.shape
        space, inputs, outputs = matrices.shape
        padded = np.pad(
            matrices, [(0, 0), (0, -inputs % high), (0, -outputs % wide)]
        )
        return padded.reshape(
            space, -(-inputs // high), high, -(-outputs // wide), wide
        )


class NM(Granularity):
    """N of every M weights along the inputs, for sparse tensor cores.

    In a convolution the M weights belong to M input channels at one spatial
    position. If the inputs are not a multiple of M, the last group is padded
    with zeros and keeps at most N of its actual weights. `"2:4"` is
    `NM(2, 4)`.

    The pattern fixes the sparsity of each kernel at `1 - n / m`, so there is
    nothing to allocate.

    Args:
        n: Integer >= 1, how many weights of each group stay.
        m: Integer > `n`, the size of a group.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value that cannot be.

    Example:

    >>> kernels = [np.array([[1.0], [-4.0], [3.0], [2.0]])]
    >>> masks = keras_bimp.select(kernels, 0.5, granularity="2:4")
    >>> masks[0].T
    array([[False,  True,  True, False]])

    Reference:

    - Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021.
    """

    default_allocation = None

    def __init__(self, n: int, m: int):
        self.n = check_integer("n", n, minimum=1)
        self.m = check_integer("m", m, minimum=2)
        if self.n >= self.m:
            raise ValueError(
                f"`n` must be less than `m`. Received: n={n}, m={m}"
            )
        # Of a kernel whose inputs are a multiple of `m`.
        self.sparsity = 1 - self.n / self.m

    @property
    def unit(self):
        return f"{self.n} of {self.m} weights"

    def refuses(self, layout):
        return None if layout.inputs else "has no input axis"

    def keep(self, scores: Scores, mask, layout: Layout) -> np.ndarray:
        """Return the new mask of a kernel."""
        values = layout.matrices(scores.where(mask).array())
        space, inputs, outputs = values.shape
        rows = -(-inputs // self.m)
        padded = np.full((space, rows * self.m, outputs), PRUNED, values.dtype)
        padded[:, :inputs] = values
        groups = padded.reshape(space, rows, self.m, outputs)
        # A stable sort prunes the lower index first.
        pruned = np.argsort(groups, axis=2, kind="stable")
        kept = groups > PRUNED
        np.put_along_axis(kept, pruned[:, :, : self.m - self.n], False, axis=2)
        kept = kept.reshape(padded.shape)[:, :inputs]
        return layout.from_matrices(kept, mask.shape)


GRANULARITIES = {"weight": Weight, "filter": Filter, "unit": Unit}
_NM = re.compile(r"(\d+):(\d+)")


def as_granularity(granularity: "str | Granularity") -> Granularity:
    """Look up a granularity, like `keras.losses.get`."""
    if isinstance(granularity, Granularity):
        return granularity
    if isinstance(granularity, str) and _NM.fullmatch(granularity):
        n, m = map(int, _NM.fullmatch(granularity).groups())
        return NM(n, m)
    if isinstance(granularity, (tuple, list, np.ndarray)):
        raise ValueError(
            "`granularity` must not be a bare pair: use "
            "`keras_bimp.selection.NM(2, 4)` for 2 of 4 weights, or "
            "`keras_bimp.selection.Block((4, 1))` for blocks of 4 x 1 weights. "
            f"Received: granularity={granularity!r}"
        )
    if granularity == "1x4":
        return Block((4, 1))
    if granularity in (Filter, Unit, Weight):
        return granularity()
    check_choice("granularity", granularity, (*GRANULARITIES, "2:4", "1x4"))
    return GRANULARITIES[granularity]()
