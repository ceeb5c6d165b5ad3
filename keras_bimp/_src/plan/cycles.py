"""How often to prune, how far each time, and for how many epochs."""

import math

from keras_bimp._src import sparsity_schedules
from keras_bimp._src.checks import check_integer


def check_cycles(cycles) -> int | str:
    """Returns `cycles`, or raises if it is no number of cycles."""
    if isinstance(cycles, str):
        if cycles != "renda":
            raise ValueError(
                "`cycles` must be an integer, 'auto' or 'renda'. "
                f"Received: cycles={cycles!r}"
            )
        return cycles
    return check_integer("cycles", cycles, minimum=1)


def geometric_sparsities(target, cycles):
    """Sparsities after each of so many cycles: equal shares of what remains."""
    progress = (j / cycles for j in range(1, cycles))
    return [
        *(sparsity_schedules.geometric(p, target) for p in progress),
        target,
    ]


def equal_shares(epochs, cycles):
    """Epochs of each cycle; the last takes what is left over."""
    if epochs < cycles:
        raise ValueError(
            "`cycles` must not exceed the number of retraining epochs. "
            f"Received: cycles={cycles}, and `epochs` minus `dense_epochs` "
            f"leaves {epochs}"
        )
    share = epochs // cycles
    return [share] * (cycles - 1) + [epochs - share * (cycles - 1)]


def renda_sparsities(target):
    """Sparsities after pruning 20% of what remains until the target."""
    # A target of exactly 36 % is two cycles, whatever the last digit says.
    cycles = max(1, math.ceil(math.log(1 - target) / math.log(0.8) - 1e-9))
    return [*(1 - 0.8**j for j in range(1, cycles)), target]


def renda_shares(cycles, epochs, original_epochs):
    """Epochs of each cycle: as many as the original training had."""
    if original_epochs is None or original_epochs != int(original_epochs):
        raise ValueError(
            "`original_epochs`, an integer, must be given for cycles='renda' "
            "and a pretrained model: each cycle retrains as long. "
            f"Received: original_epochs={original_epochs}"
        )
    length = int(original_epochs)
    if epochs != cycles * length:
        raise ValueError(
            "`epochs` must be `dense_epochs` plus what cycles='renda' takes "
            f"to reach the target: {cycles} cycles of {length} epochs, "
            f"{cycles * length} epochs. Received: {epochs} after the dense "
            "epochs"
        )
    return [length] * cycles
