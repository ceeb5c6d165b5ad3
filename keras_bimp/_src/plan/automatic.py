"""Choose the parts of the budget that the user does not give."""

import dataclasses
import math

from keras_bimp._src.checks import check_choice
from keras_bimp._src.plan.cycles import check_cycles
from keras_bimp._src.plan.cycles import renda_sparsities
from keras_bimp._src.plan.retraining_methods import RETRAINING
from keras_bimp._src.plan.retraining_methods import Retraining
from keras_bimp._src.plan.retraining_methods import as_retraining
from keras_bimp._src.schedules import LRW

AUTO = "auto"

_DENSE_SHARE = 1 / 4
_MOST_CYCLES = 5
_FEWEST_STEPS = 100  # Per cycle.
_SMALLEST_PRUNING = 1 / 3  # Of the remaining weights.
_LAMP_FROM = 0.9


@dataclasses.dataclass(frozen=True)
class Budget:
    """How a run spends its epochs.

    Args:
        dense_epochs: Integer >= 0.
        cycles: Integer >= 1, or `"renda"`.
        retraining: The `Retraining` of its cycles.
        chosen: The automatically chosen arguments of `callbacks`, as text.
    """

    dense_epochs: int
    cycles: int | str
    retraining: Retraining
    chosen: tuple[str, ...] = ()


def as_budget(
    target_sparsity: float,
    epochs: int,
    steps_per_epoch: int,
    dense_epochs: int | None,
    cycles: int | str,
    retraining,
) -> Budget:
    """Choose what is not given; keep what is.

    ```python
    dense_epochs = epochs / 4  # Rounded, at least 1.
    cycles = min(
        5,
        log(1 - target_sparsity) / log(2 / 3),  # Each removes a third or more.
        (epochs - dense_epochs) * steps_per_epoch / 100,
    )  # Rounded down, at least 1.
    retraining = "llr" if 0 < dense_epochs < epochs / 2 else "allr"
    ```

    Args:
        target_sparsity: Float in [0, 1).
        epochs: Integer >= 1, the total budget.
        steps_per_epoch: Integer >= 1.
        dense_epochs: Integer >= 0, or `None` to choose it.
        cycles: Integer >= 1, `"renda"` or `"auto"`.
        retraining: As in `as_retraining`, or `"auto"`.

    Returns:
        A `Budget`.

    Raises:
        ValueError: If there are too few epochs.
    """
    chosen = []
    if dense_epochs is None:
        dense_epochs = _dense_epochs(
            epochs, target_sparsity, cycles, retraining
        )
        chosen.append(f"dense_epochs={dense_epochs}")
    left = epochs - dense_epochs
    if is_auto(cycles):
        cycles = _cycles(target_sparsity, left, left * steps_per_epoch)
        chosen.append(f"cycles={cycles}")
    if is_auto(retraining):
        retraining = "llr" if 0 < dense_epochs < epochs / 2 else "allr"
        chosen.append(f"retraining={retraining!r}")
    return Budget(
        dense_epochs,
        check_cycles(cycles),
        as_retraining(retraining),
        tuple(chosen),
    )


def is_auto(value) -> bool:
    """Return whether an argument is to be chosen automatically."""
    return isinstance(value, str) and value == AUTO


def check_automatic(cycles, retraining) -> tuple[int | str, Retraining | str]:
    """Check both arguments and look them up unless they are `"auto"`."""
    if isinstance(retraining, str):
        check_choice("retraining", retraining, [AUTO, *RETRAINING])
    return (
        cycles if is_auto(cycles) else check_cycles(cycles),
        retraining if is_auto(retraining) else as_retraining(retraining),
    )


def allocation_for(target_sparsity: float) -> str:
    """Return the default allocation for weights pruned by magnitude."""
    return "lamp" if target_sparsity >= _LAMP_FROM else "global"


def _dense_epochs(epochs, target_sparsity, cycles, retraining):
    if epochs < 2:
        raise ValueError(
            "`epochs` of `fit` must be at least 2, one dense and one to "
            "retrain. For a pretrained model, pass `dense_epochs=0`. "
            f"Received: epochs={epochs}"
        )
    if cycles == "renda":
        parts = 1 + len(renda_sparsities(target_sparsity))
        if epochs % parts:
            raise ValueError(
                "`epochs` of `fit` must be a multiple of the dense phase and "
                f"the {parts - 1} cycles of cycles='renda', which have equal "
                f"length, or pass `dense_epochs`. Received: epochs={epochs}"
            )
        return epochs // parts
    most = epochs - (1 if is_auto(cycles) else check_cycles(cycles))
    if most < 1:
        raise ValueError(
            "`cycles` must be less than the epochs of `fit`: each takes one, "
            f"and one is dense. Received: cycles={cycles}, epochs={epochs}"
        )
    if not is_auto(retraining) and _goes_back(as_retraining(retraining)):
        return min(-(-epochs // 2), most)
    return min(max(1, round(_DENSE_SHARE * epochs)), most)


def _goes_back(retraining):
    """Return whether no cycle may be longer than the dense phase."""
    return retraining.rewinds or retraining.schedule is LRW


def _cycles(target_sparsity, epochs, steps):
    prunings = math.log1p(-target_sparsity) / math.log1p(-_SMALLEST_PRUNING)
    # 2/3 squared is exactly two prunings, despite rounding errors.
    most = min(
        _MOST_CYCLES, int(prunings + 1e-9), steps // _FEWEST_STEPS, epochs
    )
    for cycles in range(most, 1, -1):
        # The last cycle takes the remainder: at most another share.
        if epochs % cycles <= epochs // cycles:
            return cycles
    return 1
