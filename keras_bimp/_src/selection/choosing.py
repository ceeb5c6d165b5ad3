"""Select weights by a policy, for `select` and `prune`."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from keras_bimp._src import processes
from keras_bimp._src.kernel_layout import Layout
from keras_bimp._src.name_lists import listed
from keras_bimp._src.selection.allotments import Candidate
from keras_bimp._src.selection.bounds import Bounds
from keras_bimp._src.selection.criteria import Magnitude
from keras_bimp._src.selection.policy import Policy
from keras_bimp._src.selection.policy import by_kernel
from keras_bimp._src.selection.scores import check_finite
from keras_bimp._src.selection.shards import Shards
from keras_bimp._src.selection.shards import count
from keras_bimp._src.selection.shards import counts
from keras_bimp._src.selection.structures import Structures


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The result of `choose`.

    Args:
        masks: Boolean arrays of the kernels' shapes, True = kept; `Shards`
            for kernels spread over processes.
        collapsed: Indices of the kernels that would have collapsed.
        units: If `groups` is given: name of a pool of units -> how many of
            them stay, and their total number.
    """

    masks: list[np.ndarray]
    collapsed: tuple[int, ...] = ()
    units: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)


def choose(
    kernels: Sequence[np.ndarray],
    sparsity: float,
    policy: Policy,
    *,
    masks: Sequence[np.ndarray],
    layouts: Sequence[Layout] | None = None,
    names: Sequence[str] | None = None,
    gradients: Sequence[np.ndarray] | None = None,
    groups: Sequence[np.ndarray] | Structures | None = None,
    allow_empty: bool = False,
) -> Chosen:
    """Select weights like `select`, by a policy.

    Args:
        names: Names of the kernels for error messages.
        groups: See `select`, or `Structures`.
        allow_empty: Whether all weights may be pruned.
    """
    if layouts is None:
        layouts = [Layout.of_shape(kernel.shape) for kernel in kernels]
    granularity = policy.granularity
    reasons = [granularity.refuses(layout) for layout in layouts]
    part = [i for i, reason in enumerate(reasons) if reason is None]
    if kernels and not part:
        raise ValueError(
            "`granularity` must apply to some kernel. "
            f"Received: a granularity that fits none: every kernel {reasons[0]}"
        )
    if names is None:
        names = [f"kernel {i}" for i in range(len(kernels))]
    if not isinstance(policy.criterion, Magnitude):  # It checks by itself.
        for i in part:
            check_finite(kernels[i], "weights", names[i])
    scores = [
        policy.criterion.scores(
            kernels[i],
            index=i,
            gradient=None if gradients is None else gradients[i],
            name=names[i],
        )
        for i in part
    ]
    new_masks = list(masks)
    if granularity.sparsity is not None:
        for i, s in zip(part, scores, strict=True):
            new_masks[i] = granularity.keep(s, masks[i], layouts[i])
        return Chosen(new_masks)
    limits = [
        by_kernel(name, getattr(policy, name), names)
        for name in ("max_layer_sparsity", "layer_sparsity")
    ]
    if isinstance(groups, Structures):
        pools = groups.pools
        kept, collapsed = _Choice(
            groups.candidates(scores, masks, layouts, granularity.norm),
            policy,
            [pool.name for pool in pools],
            *[groups.limits(values) for values in limits],
        )(sparsity, allow_empty)
        return Chosen(
            groups.expand(kept, masks),
            tuple(pools[i].computing[0] for i in collapsed),
            {
                pool.name: (int(units.sum()), len(units))
                for pool, units in zip(pools, kept, strict=True)
            },
        )
    candidates = [
        Candidate(
            granularity.scores(s, masks[i], layouts[i]),
            kernels[i].shape,
            layouts[i],
            None if groups is None else groups[i],
        )
        for i, s in zip(part, scores, strict=True)
    ]
    kept, collapsed = _Choice(
        candidates,
        policy,
        [names[i] for i in part],
        *[[values[i] for i in part] for values in limits],
    )(sparsity, allow_empty)
    for i, units in zip(part, kept, strict=True):
        new_masks[i] = granularity.expand(units, masks[i], layouts[i])
    return Chosen(new_masks, tuple(part[i] for i in collapsed))


class _Choice:
    """Chooses units of the candidates within the bounds of each kernel."""

    def __init__(self, candidates, policy, names, caps, fixed):
        self.candidates = candidates
        self.policy = policy
        self.names = names
        self.units = [c.units for c in candidates]
        self.alive = [c.scores.alive for c in candidates]
        self.floors = [
            min(policy.granularity.floor(c.shape, c.layout), alive)
            for c, alive in zip(candidates, self.alive, strict=True)
        ]
        self.bounds = self._bounds(caps, fixed)

    def __call__(self, sparsity, allow_empty):
        """Return which units stay, and which candidates would collapse.

        Returns:
            One boolean array per candidate, and a list of indices.
        """
        if not sum(self.units):
            return [np.ones(c.scores.shape, bool) for c in self.candidates], []
        allotment = self.policy.allocation.allot(self.candidates, sparsity)
        # If more than the target is already pruned, everything alive stays.
        budget = min(allotment.budget, sum(self.alive))
        if not self.policy.exact_total:
            budget = max(budget, sum(self.bounds.lower))
            budget = min(budget, sum(self.bounds.upper))
        self._check(budget, allow_empty)
        kept = allotment.keep(self.bounds, budget)
        collapsed = [
            i
            for i, (units, floor) in enumerate(
                zip(counts(kept), self.floors, strict=True)
            )
            if units < floor
        ]
        if collapsed and self.policy.on_collapse == "raise":
            raise ValueError(
                "Each pruning must leave every kernel at least "
                f"{self.policy.granularity.least}, unless "
                "`on_collapse='protect'` or 'ignore'. Received: a pruning "
                f"that leaves {self._of(budget)}: "
                + listed(
                    f"{count(kept[i])} in {self.names[i]}" for i in collapsed
                )
            )
        if collapsed and self.policy.on_collapse == "protect":
            kept = None  # Free it first: two copies need too much memory.
            kept = allotment.keep(self._protected(budget), budget)
        return kept, collapsed

    def _bounds(self, caps, fixed):
        lower, upper = [], []
        for i, (units, most) in enumerate(
            zip(self.units, self.alive, strict=True)
        ):
            least = 0
            if caps[i] is not None:
                # 0.29 of 100 units is 29, despite rounding errors.
                least = min(units - math.floor(caps[i] * units + 1e-9), most)
            if fixed[i] is not None:
                if caps[i] is not None and fixed[i] > caps[i]:
                    raise ValueError(
                        "`layer_sparsity` must not exceed "
                        f"`max_layer_sparsity`. Received: {fixed[i]:g} and "
                        f"{caps[i]:g} for {self.names[i]}"
                    )
                told = max(units - round(fixed[i] * units), least)
                if self.policy.on_collapse == "protect":
                    told = max(told, self.floors[i])
                least = most = min(told, most)
            lower.append(least)
            upper.append(most)
        return Bounds(tuple(lower), tuple(upper))

    def _check(self, budget, allow_empty):
        if not budget and not allow_empty:
            raise ValueError(
                "The target sparsity must leave at least one of the "
                f"{sum(self.units):,} {self.policy.granularity.unit}. "
                "Received: a target that prunes all of them"
            )
        least, most = sum(self.bounds.lower), sum(self.bounds.upper)
        if not least <= budget <= most:
            raise ValueError(
                "`max_layer_sparsity` and `layer_sparsity` must allow the "
                "target sparsity. Received: a target that leaves "
                f"{self._of(budget)}, but these bounds leave {least:,} to "
                f"{most:,}"
            )

    def _protected(self, budget):
        """Return the bounds raised to the floors."""
        bounds = self.bounds.raised_to(self.floors)
        if sum(bounds.lower) > budget:
            raise ValueError(
                "With `on_collapse='protect'`, every kernel must be able to "
                f"keep {self.policy.granularity.least}. Received: a sparsity "
                f"that leaves {self._of(budget)}, where {sum(bounds.lower):,} "
                "must stay. Lower the sparsity, or pass `on_collapse='ignore'`"
            )
        return bounds

    def _of(self, budget):
        unit = self.policy.granularity.unit
        return f"{budget:,} of {sum(self.units):,} {unit}"


def norms(kernels, masks, new_masks) -> tuple[float, float]:
    """Return L2 norms of all weights in `masks` and of those newly pruned.

    Returns:
        The tuple `(norm, norm_of_removed)`, summed in float64.
    """
    here, spread = np.zeros(2), np.zeros(2)
    for kernel, *both in zip(kernels, masks, new_masks, strict=True):
        if isinstance(kernel, Shards):
            for parts in kernel.own_parts(*both):
                spread += _squares(*parts)
        else:
            here += _squares(kernel, *both)
    if any(isinstance(kernel, Shards) for kernel in kernels):
        here += processes.total(spread)
    before, removed = np.sqrt(here).tolist()
    return before, removed


def _squares(kernel, mask, new_mask):
    """Return sums of squares of the kept weights and of the newly pruned."""
    before, removed = 0.0, 0.0
    flat = [np.reshape(a, -1) for a in (kernel, mask, new_mask)]
    for start in range(0, kernel.size, 1 << 16):
        part = slice(start, start + (1 << 16))
        weights, alive, kept = (array[part] for array in flat)
        squares = np.square(weights.astype(np.float64)) * alive
        before += squares.sum()
        removed += squares[~kept].sum()
    return np.array([before, removed])
