"""Rules: everything that says which weights stay, looked up and checked."""

import dataclasses
import re
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from types import NoneType

from keras_bimp.checks import check_choice
from keras_bimp.checks import check_sparsity
from keras_bimp.selection.allocations import Allocation
from keras_bimp.selection.allocations import Ranking
from keras_bimp.selection.allocations import as_allocation
from keras_bimp.selection.criteria import Criterion
from keras_bimp.selection.criteria import as_criterion
from keras_bimp.selection.granularities import NM
from keras_bimp.selection.granularities import Granularity
from keras_bimp.selection.granularities import Weight
from keras_bimp.selection.granularities import as_granularity
from keras_bimp.sparsity import geometric

ON_COLLAPSE = ("protect", "raise", "ignore")

LayerSparsity = float | Mapping[str, float] | Sequence[float | None] | None


@dataclasses.dataclass(frozen=True)
class Rules:
    """Which weights stay. Made by `as_rules`.

    Args:
        criterion: What a weight scores.
        granularity: What is pruned as one.
        allocation: How many units each kernel keeps; `None` if the granularity
            says it.
        on_collapse: One of `ON_COLLAPSE`.
        max_layer_sparsity: What no kernel's sparsity may exceed: one number,
            or one per kernel, or by kernel name.
        layer_sparsity: The sparsity that some kernels have whatever the
            allocation says.
    """

    criterion: Criterion
    granularity: Granularity
    allocation: Allocation | None
    on_collapse: str
    max_layer_sparsity: LayerSparsity = None
    layer_sparsity: LayerSparsity = None

    @property
    def exact(self) -> bool:
        """Whether exactly `round(sparsity * weights)` weights are pruned."""
        return isinstance(self.granularity, Weight) and isinstance(
            self.allocation, Ranking
        )

    def part_way(self, progress: float) -> "Rules":
        """The rules at a pruning on the way, at `progress` in [0, 1].

        `layer_sparsity` follows the same geometric path as all weights do.
        """
        fixed = self.layer_sparsity
        if progress == 1 or fixed is None:
            return self
        if isinstance(fixed, Mapping):
            fixed = {k: _on_the_way(progress, v) for k, v in fixed.items()}
        else:
            fixed = [_on_the_way(progress, v) for v in fixed]
        return dataclasses.replace(self, layer_sparsity=fixed)

    def __str__(self):
        by = f"{self.granularity.unit}, by {self.criterion}"
        return f"{by}, {self.allocation}" if self.allocation else by

    def check_target(self, name: str, sparsity) -> float:
        """Returns a target sparsity, or raises if these rules forbid it."""
        sparsity = check_sparsity(name, sparsity)
        nm = self.granularity
        if isinstance(nm, NM) and abs(sparsity - nm.sparsity) > 1e-6:
            raise ValueError(
                f"`{name}` must be {nm.sparsity:g} with {nm.n} of {nm.m} "
                f"weights to stay. Received: {name}={sparsity:g}"
            )
        return sparsity


def as_rules(
    allocation: str | Callable | Allocation | None = None,
    criterion: str | Callable | Criterion = "magnitude",
    granularity: str | Granularity = "weight",
    on_collapse: str = "protect",
    max_layer_sparsity: LayerSparsity = None,
    layer_sparsity: LayerSparsity = None,
) -> Rules:
    """Looks up what names stand for, and checks that it goes together.

    Raises:
        ValueError: If a name is unknown or the combination makes no sense.
    """
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
            "`layer_sparsity` must say of which kernels: a mapping from names "
            f"to numbers. Received: layer_sparsity={layer_sparsity!r}"
        )
    if isinstance(granularity, NM):
        for name, value in (
            ("allocation", allocation),
            ("max_layer_sparsity", max_layer_sparsity),
            ("layer_sparsity", layer_sparsity),
        ):
            if value is not None:
                raise ValueError(
                    f"`{name}` must not be given with granularity "
                    f"'{granularity.n}:{granularity.m}', which keeps the same "
                    f"number in every group. Received: {name}={value!r}"
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
                "`allocation` must not weigh scores that measure nothing. "
                f"Received: allocation={named!r}, which compares amounts, "
                "with random scores. Use allocation='global', 'uniform', "
                "'uniform_plus' or 'erk'"
            )
    return Rules(
        criterion=criterion,
        granularity=granularity,
        allocation=allocation,
        on_collapse=on_collapse,
        max_layer_sparsity=max_layer_sparsity,
        layer_sparsity=layer_sparsity,
    )


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
    argument: str, value: LayerSparsity, names: Sequence[str]
) -> list[float | None]:
    """Returns the value for each kernel, or `None` where there is none.

    Args:
        argument: What to call it in an error.
        value: One number for all, a sequence with one per kernel, or a mapping
            from names: a kernel's own name, or a regex searched in the names.
            The kernel's own name goes first, then the order of the mapping.
        names: The kernels' names.

    Raises:
        ValueError: If there is not one per kernel, or a name matches none.
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
        if pattern not in names and not any(
            re.search(pattern, name) for name in names
        ):
            raise ValueError(
                f"The keys of `{argument}` must match kernels that are pruned. "
                f"Received: {pattern!r}, which matches none of "
                + ", ".join(repr(name) for name in names)
            )
    return [
        value[name]
        if name in value
        else next((v for p, v in value.items() if re.search(p, name)), None)
        for name in names
    ]
