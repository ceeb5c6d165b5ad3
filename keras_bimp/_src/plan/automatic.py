"""The budget that is chosen where the user leaves it open."""

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
_FEWEST_STEPS = 100  # Of a cycle.
_SMALLEST_PRUNING = 1 / 3  # Of what is left.
_LAMP_FROM = 0.9


@dataclasses.dataclass(frozen=True)
class Budget:
    """How a run spends its epochs.

    Args:
        dense_epochs: Integer >= 0.
        cycles: Integer >= 1, or `"renda"`.
        retraining: How its cycles retrain.
        chosen: What of this was chosen, as arguments of `callbacks`.
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
    """Chooses what is left open; what is given stays.

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
        dense_epochs: Integer >= 0, or `None` to have it chosen.
        cycles: Integer >= 1 or `"renda"`, or `"auto"`.
        retraining: What `as_retraining` takes, or `"auto"`.

    Returns:
        A `Budget`.

    Raises:
        ValueError: If the epochs are too few to choose from.
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
    """Whether an argument is to be chosen."""
    return isinstance(value, str) and value == AUTO


def check_automatic(cycles, retraining) -> tuple[int | str, Retraining | str]:
    """Returns both, looked up unless they are to be chosen, or raises."""
    if isinstance(retraining, str):
        check_choice("retraining", retraining, [AUTO, *RETRAINING])
    return (
        cycles if is_auto(cycles) else check_cycles(cycles),
        retraining if is_auto(retraining) else as_retraining(retraining),
    )


def allocation_for(target_sparsity: float) -> str:
    """The allocation of weights pruned by magnitude."""
    return "lamp" if target_sparsity >= _LAMP_FROM else "global"


def _dense_epochs(epochs, target_sparsity, cycles, retraining):
    if epochs < 2:
        raise ValueError(
            "`epochs` of `fit` must be at least 2, so that some are dense and "
            "some retrain, or `dense_epochs=0` be given for a pretrained "
            f"model. Received: epochs={epochs}"
        )
    if cycles == "renda":
        parts = 1 + len(renda_sparsities(target_sparsity))
        if epochs % parts:
            raise ValueError(
                "`epochs` of `fit` must be a multiple of the dense phase and "
                f"the {parts - 1} cycles of cycles='renda', which are equally "
                f"long, or `dense_epochs` be given. Received: epochs={epochs}"
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
    """Whether no cycle may be longer than the dense phase."""
    return retraining.rewinds or retraining.schedule is LRW


def _cycles(target_sparsity, epochs, steps):
    prunings = math.log1p(-target_sparsity) / math.log1p(-_SMALLEST_PRUNING)
    # Two thirds squared are two prunings, whatever the last digit says.
    most = min(
        _MOST_CYCLES, int(prunings + 1e-9), steps // _FEWEST_STEPS, epochs
    )
    for cycles in range(most, 1, -1):
        # The last one takes what is left over: no more than its share again.
        if epochs % cycles <= epochs // cycles:
            return cycles
    return 1
