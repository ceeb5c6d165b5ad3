"""`select`: which weights stay. A pure function of arrays."""

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from keras_bimp.layout import Layout
from keras_bimp.selection.allocations import Allocation
from keras_bimp.selection.allocations import Candidate
from keras_bimp.selection.bounds import Bounds
from keras_bimp.selection.criteria import Criterion
from keras_bimp.selection.granularities import NM
from keras_bimp.selection.granularities import Granularity
from keras_bimp.selection.rules import Rules
from keras_bimp.selection.rules import as_rules
from keras_bimp.selection.rules import by_kernel


def select(
    kernels: Sequence[np.ndarray],
    sparsity: float,
    *,
    allocation: str | Callable | Allocation | None = None,
    criterion: str | Callable | Criterion = "magnitude",
    granularity: str | Granularity = "weight",
    masks: Sequence[np.ndarray] | None = None,
    on_collapse: str = "ignore",
    max_layer_sparsity: float | Sequence[float | None] | None = None,
    layer_sparsity: Sequence[float | None] | None = None,
    gradients: Sequence[np.ndarray] | None = None,
    layouts: Sequence[Layout] | None = None,
) -> list[np.ndarray]:
    """Selects the weights to keep.

    Three pieces compose. A criterion gives every weight a score. The
    granularity says what is pruned as one, and the allocation how many of
    these units each kernel keeps; those with the highest scores stay. Counts
    are exact. Among equal scores the lower index is pruned first: kernels in
    order, entries of a kernel in row-major order. -0.0 is 0. Half precision
    and bfloat16 are ranked in float32.

    Args:
        kernels: Arrays in Keras layout, in model order.
        sparsity: Float in [0, 1). The fraction of all units of all kernels
            together that is pruned after the call.
        allocation: One of

            - `"global"`: the highest scores of all kernels together stay
            - `"uniform"`: the same sparsity in every kernel
            - `"uniform_plus"`: the same, but for the first convolution, which
              stays dense, and the last dense layer, which keeps a fifth
            - `"erk"`: Erdos-Renyi-Kernel, small kernels stay denser
            - `"lamp"`: global, by scores adapted to each kernel
            - `"relative"`: global, by magnitude over the usual norm of what
              feeds one output unit of the kernel

            or a `selection.Ranking`, or a callable `(scores, sparsity)` ->
            number of units that each kernel keeps, with `scores` a list of
            arrays in which what is already pruned is `-inf`. Defaults to what
            is usual for the granularity: `"global"` for weights and blocks,
            `"uniform"` for filters.
        criterion: `"magnitude"`; `"random"` or `selection.Random(seed)`;
            `"saliency"`, weight times gradient; or a callable kernel ->
            scores of the same shape. The highest stay.
        granularity: `"weight"`; `"filter"` or `selection.Filter(norm)`, whole
            filters of convolutions; `"2:4"` or `selection.NM(2, 4)`, 2 of 4
            weights along the inputs; `selection.Block((4, 1))`, blocks of
            4 inputs x 1 output. Kernels that it does not apply to stay as they
            are and do not count.
        masks: Boolean arrays, True where a weight is still there. What is
            pruned stays pruned. Defaults to nothing pruned.
        on_collapse: What to do if a kernel would keep fewer weights than it
            has output units (no filter, with filters): `"ignore"`, `"raise"`
            a ValueError, or `"protect"`: it keeps its best ones up to that
            number, and the other kernels give up as many, so that the total
            stays exact.
        max_layer_sparsity: Float in [0, 1), the sparsity that no kernel
            exceeds, or a sequence with one per kernel, `None` for no limit.
            The other kernels give up more, so that the total stays exact.
        layer_sparsity: Sequence with one float in [0, 1) per kernel, the
            sparsity that this kernel has whatever the allocation says, or
            `None`. The other kernels make up for it.
        gradients: For `"saliency"`: arrays of the kernels' shapes.
        layouts: A `selection.Layout` per kernel: which axes are inputs, which
            outputs. Defaults to the last axis out, the one before it in, and
            to convolutions where there are 3 or more axes.

    Returns:
        Boolean arrays of the kernels' shapes, True = kept.

    Raises:
        ValueError: If an argument is not as described, a combination makes no
            sense, a weight is not finite, nothing would be left, the bounds
            cannot be met, or a kernel collapses and `on_collapse` is
            `"raise"`.

    Example:

    >>> kernels = [np.array([[0.1, -3.0], [0.2, 2.0]]), np.array([[1.0]])]
    >>> [mask.tolist() for mask in keras_bimp.select(kernels, 0.4)]
    [[[False, True], [False, True]], [[True]]]

    Reference:

    - Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love
      Retraining", ICLR 2023, Appendix C.2.
    """
    rules = as_rules(
        allocation,
        criterion,
        granularity,
        on_collapse,
        max_layer_sparsity,
        layer_sparsity,
    )
    kernels = [np.asarray(kernel) for kernel in kernels]
    for kernel in kernels:
        if kernel.dtype.kind in "cOSUMm":
            raise ValueError(
                "`kernels` must be arrays of real numbers. "
                f"Received: an array of dtype {kernel.dtype}"
            )
    shapes = [kernel.shape for kernel in kernels]
    if masks is None:
        masks = [np.ones(shape, bool) for shape in shapes]
    for name, arrays in (("masks", masks), ("gradients", gradients)):
        if arrays is not None and [np.shape(a) for a in arrays] != shapes:
            raise ValueError(
                f"`{name}` must hold one array of the kernel's shape per "
                f"kernel. Received: kernels of shapes {shapes}, {name} of "
                f"shapes {[np.shape(a) for a in arrays]}"
            )
    if layouts is not None and len(layouts) != len(kernels):
        raise ValueError(
            "`layouts` must hold one layout per kernel. "
            f"Received: {len(layouts)} for {len(kernels)} kernels"
        )
    if rules.criterion.needs_gradients and gradients is None:
        raise ValueError(
            "`gradients` must be given for this criterion: those of the loss "
            "with respect to the kernels. Received: gradients=None"
        )
    chosen = choose(
        kernels,
        rules.check_target("sparsity", sparsity),
        rules,
        masks=[np.asarray(mask, bool) for mask in masks],
        layouts=layouts,
        gradients=gradients,
    )
    return chosen.masks


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What `choose` returns.

    Args:
        masks: Boolean arrays of the kernels' shapes, True = kept.
        collapsed: Indices of the kernels that would have collapsed.
    """

    masks: list[np.ndarray]
    collapsed: tuple[int, ...] = ()


def choose(
    kernels: Sequence[np.ndarray],
    sparsity: float,
    rules: Rules,
    *,
    masks: Sequence[np.ndarray],
    layouts: Sequence[Layout] | None = None,
    names: Sequence[str] | None = None,
    gradients: Sequence[np.ndarray] | None = None,
    allow_empty: bool = False,
) -> Chosen:
    """Selects as `select` does, by rules.

    Args:
        names: What to call the kernels in errors.
        allow_empty: Whether nothing at all may be left.
    """
    if layouts is None:
        layouts = [Layout.of_shape(kernel.shape) for kernel in kernels]
    granularity = rules.granularity
    reasons = [granularity.refuses(layout) for layout in layouts]
    part = [i for i, reason in enumerate(reasons) if reason is None]
    if kernels and not part:
        raise ValueError(
            "`granularity` must apply to some kernel. "
            f"Received: one that applies to none: every kernel {reasons[0]}"
        )
    scores = [
        rules.criterion.scores(
            kernels[i],
            index=i,
            gradient=None if gradients is None else gradients[i],
            name=names[i] if names else f"kernel {i}",
        )
        for i in part
    ]
    new_masks = list(masks)
    if isinstance(granularity, NM):
        for i, s in zip(part, scores, strict=True):
            new_masks[i] = granularity.keep(s, masks[i], layouts[i])
        return Chosen(new_masks)
    candidates = [
        Candidate(
            granularity.scores(s, masks[i], layouts[i]),
            kernels[i].shape,
            layouts[i],
        )
        for i, s in zip(part, scores, strict=True)
    ]
    named = [names[i] if names else f"kernel {i}" for i in part]
    kept, collapsed = _keep(candidates, sparsity, rules, named, allow_empty)
    for i, units in zip(part, kept, strict=True):
        new_masks[i] = granularity.expand(units, masks[i], layouts[i])
    return Chosen(new_masks, tuple(part[i] for i in collapsed))


def _keep(candidates, sparsity, rules, names, allow_empty):
    """Which units stay, and which of the candidates would have collapsed."""
    total = sum(c.units for c in candidates)
    alive = [c.scores.alive for c in candidates]
    if not total:
        return [np.ones(c.scores.shape, bool) for c in candidates], []
    bounds = _bounds(candidates, alive, rules, names)
    allotment = rules.allocation.allot(candidates, sparsity)
    unit = rules.granularity.unit
    # Where more is pruned than asked for, all that is alive stays.
    budget = min(allotment.budget, sum(alive))
    if not budget and not allow_empty:
        raise ValueError(
            f"The target sparsity must leave at least one of the {total:,} "
            f"{unit}. Received: one that prunes all of them"
        )
    if not sum(bounds.lower) <= budget <= sum(bounds.upper):
        raise ValueError(
            "`max_layer_sparsity` and `layer_sparsity` must allow the target "
            f"sparsity. Received: a target that leaves {budget:,} of "
            f"{total:,} {unit}, where they leave from {sum(bounds.lower):,} "
            f"to {sum(bounds.upper):,}"
        )
    kept = allotment.keep(bounds, budget)
    floors = [
        min(rules.granularity.floor(c.shape, c.layout), most)
        for c, most in zip(candidates, alive, strict=True)
    ]
    collapsed = [
        i
        for i, (units, floor) in enumerate(zip(kept, floors, strict=True))
        if np.count_nonzero(units) < floor
    ]
    if collapsed and rules.on_collapse == "raise":
        raise ValueError(
            "A pruning must leave every kernel at least as many weights as "
            "it has output units, or be told `on_collapse='protect'` or "
            f"'ignore'. Received: a pruning that leaves {budget:,} of "
            f"{total:,} {unit}: "
            + ", ".join(
                f"{np.count_nonzero(kept[i])} in {names[i]}" for i in collapsed
            )
        )
    if collapsed and rules.on_collapse == "protect":
        bounds = bounds.raised_to(floors)
        if sum(bounds.lower) > budget:
            raise ValueError(
                "With `on_collapse='protect'`, every kernel must be able to "
                "keep one weight per output unit, or one filter. Received: a "
                f"sparsity that leaves {budget:,} {unit} for {sum(floors):,} "
                f"output units, where {sum(bounds.lower):,} must stay. Lower "
                "the sparsity, or pass `on_collapse='ignore'`"
            )
        kept = allotment.keep(bounds, budget)
    return kept, collapsed


def _bounds(candidates, alive, rules, names):
    caps = by_kernel("max_layer_sparsity", rules.max_layer_sparsity, names)
    fixed = by_kernel("layer_sparsity", rules.layer_sparsity, names)
    lower, upper = [], []
    for c, most, cap, sparsity, name in zip(
        candidates, alive, caps, fixed, names, strict=True
    ):
        least = 0
        if cap is not None:
            # 0.9 of 10 units are 9, whatever the last digit says.
            least = min(c.units - math.floor(cap * c.units + 1e-9), most)
        if sparsity is not None:
            if cap is not None and sparsity > cap:
                raise ValueError(
                    "`layer_sparsity` must not exceed `max_layer_sparsity`. "
                    f"Received: {sparsity:g} and {cap:g} for {name}"
                )
            least = most = min(c.units - round(sparsity * c.units), most)
        lower.append(least)
        upper.append(most)
    return Bounds(tuple(lower), tuple(upper))


def norms(kernels, masks, new_masks) -> tuple[float, float]:
    """L2 norms of all weights that `masks` keep, and of those then pruned.

    Returns:
        The tuple `(norm, norm_of_removed)`, summed in float64.
    """
    before, removed = 0.0, 0.0
    for kernel, mask, new_mask in zip(kernels, masks, new_masks, strict=True):
        flat = [np.reshape(a, -1) for a in (kernel, mask, new_mask)]
        for start in range(0, kernel.size, 1 << 16):
            part = slice(start, start + (1 << 16))
            weights, alive, kept = (array[part] for array in flat)
            squares = np.square(weights.astype(np.float64)) * alive
            before += squares.sum()
            removed += squares[~kept].sum()
    return math.sqrt(before), math.sqrt(removed)
