"""Policy: all settings of a selection, looked up and checked."""

import dataclasses
import re
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from types import NoneType

import numpy as np

from keras_bimp._src.checks import check_choice
from keras_bimp._src.checks import check_sparsity
from keras_bimp._src.selection.allocations import Ranking
from keras_bimp._src.selection.allocations import as_allocation
from keras_bimp._src.selection.allotments import Allocation
from keras_bimp._src.selection.criteria import Criterion
from keras_bimp._src.selection.criteria import Magnitude
from keras_bimp._src.selection.criteria import as_criterion
from keras_bimp._src.selection.granularities import Filter
from keras_bimp._src.selection.granularities import Granularity
from keras_bimp._src.selection.granularities import Weight
from keras_bimp._src.selection.granularities import as_granularity
from keras_bimp._src.sparsity_schedules import geometric

ON_COLLAPSE = ("protect", "raise", "ignore")

LayerSparsity = float | Mapping[str, float] | Sequence[float | None] | None


@dataclasses.dataclass(frozen=True)
class Policy:
    """The settings of a selection. Created by `as_policy`.

    Args:
        criterion: Scores the weights.
        granularity: What is pruned as one unit.
        allocation: How many units each kernel keeps; `None` if the granularity
            fixes it.
        on_collapse: One of `ON_COLLAPSE`.
        max_layer_sparsity: Upper limit on the sparsity of each kernel: one
            number, or one per kernel, or by kernel name.
        layer_sparsity: Fixed sparsity of some kernels, which overrides the
            allocation.
        exact_total: Whether the bounds must allow the exact total. If not,
            the total may deviate.
    """

    criterion: Criterion
    granularity: Granularity
    allocation: Allocation | None
    on_collapse: str
    max_layer_sparsity: LayerSparsity = None
    layer_sparsity: LayerSparsity = None
    exact_total: bool = True

    @property
    def exact(self) -> bool:
        """Whether exactly `round(sparsity * weights)` weights are pruned."""
        return isinstance(self.granularity, Weight) and isinstance(
            self.allocation, Ranking
        )

    @property
    def needs_arrays(self) -> bool:
        """Whether it needs whole kernels, even if they are spread."""
        return not (
            isinstance(self.criterion, Magnitude)
            and isinstance(self.granularity, Weight)
            and not self.allocation.needs_arrays
        )

    def part_way(self, progress: float) -> "Policy":
        """Return the policy for an intermediate pruning.

        `layer_sparsity` follows the same geometric path as the total. These
        paths need not add up, so the total may deviate.

        Args:
            progress: Float in [0, 1].
        """
        fixed = self.layer_sparsity
        if progress == 1 or fixed is None:
            return self
        if isinstance(fixed, Mapping):
            fixed = {k: _on_the_way(progress, v) for k, v in fixed.items()}
        else:
            fixed = [_on_the_way(progress, v) for v in fixed]
        return dataclasses.replace(
            self, layer_sparsity=fixed, exact_total=False
        )

    def __str__(self):
        by = f"{self.granularity.unit}, by {self.criterion}"
        return f"{by}, {self.allocation}" if self.allocation else by

    def check_target(self, name: str, sparsity) -> float:
        """Return a target sparsity; raise if the policy forbids it."""
        sparsity = check_sparsity(name, sparsity)
        only = self.granularity.sparsity
        if only is not None and abs(sparsity - only) > 1e-6:
            raise ValueError(
                f"`{name}` must be {only:g} for {self.granularity.unit}. "
                f"Received: {name}={sparsity:g}"
            )
        return sparsity


def as_policy(
    allocation: str | Callable | Allocation | None = None,
    criterion: str | Callable | Criterion = "magnitude",
    granularity: str | Granularity = "weight",
    on_collapse: str = "protect",
    max_layer_sparsity: LayerSparsity = None,
    layer_sparsity: LayerSparsity = None,
) -> Policy:
    """Look up names and check that the settings are compatible.

    Raises:
        ValueError: If a name is unknown or settings are incompatible.
    """
    max_layer_sparsity = _as_list(max_layer_sparsity)
    layer_sparsity = _as_list(layer_sparsity)
    criterion = as_criterion(criterion)
    granularity = as_granularity(granularity)
    check_choice("on_collapse", on_collapse, ON_COLLAPSE)
    for name, value in (
        ("max_layer_sparsity", max_layer_sparsity),
        ("layer_sparsity", layer_sparsity),
    ):
        _check_layer_sparsity(name, value)
    if not isinstance(layer_sparsity, (Mapping, list, tuple, NoneType)):
        raise TypeError(
            "`layer_sparsity` must name its kernels: pass a mapping from "
            f"names to numbers. Received: layer_sparsity={layer_sparsity!r}"
        )
    if granularity.sparsity is not None:
        for name, value in (
            ("allocation", allocation),
            ("max_layer_sparsity", max_layer_sparsity),
            ("layer_sparsity", layer_sparsity),
        ):
            if value is not None:
                raise ValueError(
                    f"`{name}` must not be given for {granularity.unit}, "
                    "which fixes how many each kernel keeps. "
                    f"Received: {name}={value!r}"
                )
    else:
        if allocation is None:
            allocation = granularity.default_allocation
        named = allocation
        allocation = as_allocation(allocation)
        if getattr(allocation, "needs_amounts", False) and (
            not criterion.measures
        ):
            raise ValueError(
                "`allocation` must not compare amounts if scores are random. "
                f"Received: allocation={named!r}. "
                "Use allocation='global', 'uniform', "
                "'uniform_plus' or 'erk'"
            )
        if allocation.needs_groups:
            _check_coupled(named, granularity, layer_sparsity)
    return Policy(
        criterion=criterion,
        granularity=granularity,
        allocation=allocation,
        on_collapse=on_collapse,
        max_layer_sparsity=max_layer_sparsity,
        layer_sparsity=layer_sparsity,
    )


def _check_coupled(allocation, granularity, layer_sparsity):
    if not isinstance(granularity, Filter):
        raise ValueError(
            "`granularity` must be 'filter' or 'unit' for an allocation that "
            "prunes groups of units together. Received: "
            f"allocation={allocation!r} with {granularity.unit}"
        )
    if layer_sparsity is not None:
        raise ValueError(
            "`layer_sparsity` must not be given for an allocation that prunes "
            "filters of several kernels together. Use `max_layer_sparsity`, "
            "or granularity='unit' with allocation='uniform'. "
            f"Received: layer_sparsity={layer_sparsity!r} with "
            f"allocation={allocation!r}"
        )


def _as_list(value):
    return value.tolist() if isinstance(value, np.ndarray) else value


def _on_the_way(progress, sparsity):
    return None if sparsity is None else geometric(progress, sparsity)


def _check_layer_sparsity(name, value):
    values = [value]
    if isinstance(value, Mapping):
        values = value.values()
        for pattern in value:
            try:
                re.compile(pattern)
            except (re.error, TypeError) as error:
                raise ValueError(
                    f"The keys of `{name}` must be names of kernels or "
                    f"regexes. Received: {pattern!r}: {error}"
                ) from error
    elif isinstance(value, (list, tuple)):
        values = value
    for each in values:
        if each is not None:
            check_sparsity(name, each)


def by_kernel(
    argument: str,
    value: LayerSparsity,
    names: Sequence[str],
    others: Sequence[str] = (),
) -> list[float | None]:
    """Return the value for each kernel, or `None` where there is none.

    Args:
        argument: Name of the argument for error messages.
        value: One number for all, a sequence with one per kernel, or a mapping
            from names: the exact name of a kernel, or a regex searched in the
            names. Exact names come first, then the order of the mapping.
        names: The kernels' names.
        others: Names of kernels that are not pruned; the mapping may name
            them.

    Raises:
        ValueError: If the sequence has the wrong length, or a key matches no
            kernel.
    """
    if not isinstance(value, (Mapping, list, tuple)):
        return [value] * len(names)
    if not isinstance(value, Mapping):
        if len(value) != len(names):
            raise ValueError(
                f"`{argument}` must hold one number per kernel. "
                f"Received: {len(value)} for {len(names)} kernels"
            )
        return list(value)
    for pattern in value:
        known = [*names, *others]
        if pattern not in known and not any(
            re.search(pattern, name) for name in known
        ):
            raise ValueError(
                f"The keys of `{argument}` must match kernels. "
                f"Received: {pattern!r}, which matches none of "
                + ", ".join(repr(name) for name in known)
            )
    return [
        value[name]
        if name in value
        else next((v for p, v in value.items() if re.search(p, name)), None)
        for name in names
    ]
