"""Number of cycles, their sparsities and their lengths."""

import math

from keras_bimp._src import sparsity_schedules
from keras_bimp._src.checks import check_integer


def check_cycles(cycles) -> int | str:
    """Return `cycles`; raise if it is invalid."""
    if isinstance(cycles, str):
        if cycles != "renda":
            raise ValueError(
                "`cycles` must be an integer, 'auto' or 'renda'. "
                f"Received: cycles={cycles!r}"
            )
        return cycles
    return check_integer("cycles", cycles, minimum=1)


def geometric_sparsities(target, cycles):
    """Return sparsities after each cycle: equal shares of what remains."""
    progress = (j / cycles for j in range(1, cycles))
    return [
        *(sparsity_schedules.geometric(p, target) for p in progress),
        target,
    ]


def equal_shares(epochs, cycles):
    """Return the epochs of each cycle; the last takes the remainder."""
    if epochs < cycles:
        raise ValueError(
            "`cycles` must not exceed the number of retraining epochs. "
            f"Received: cycles={cycles}, and `epochs` minus `dense_epochs` "
            f"leaves {epochs}"
        )
    share = epochs // cycles
    return [share] * (cycles - 1) + [epochs - share * (cycles - 1)]


def renda_sparsities(target):
    """Return sparsities of pruning 20% of what remains until the target."""
    # A target of exactly 36% takes two cycles, despite rounding errors.
    cycles = max(1, math.ceil(math.log(1 - target) / math.log(0.8) - 1e-9))
    return [*(1 - 0.8**j for j in range(1, cycles)), target]


def renda_shares(cycles, epochs, original_epochs):
    """Return the epochs of each cycle: the length of the original training."""
    if original_epochs is None or original_epochs != int(original_epochs):
        raise ValueError(
            "`original_epochs`, an integer, must be given for cycles='renda' "
            "and a pretrained model: it is the length of each cycle. "
            f"Received: original_epochs={original_epochs}"
        )
    length = int(original_epochs)
    if epochs != cycles * length:
        raise ValueError(
            "`epochs` must be `dense_epochs` plus the epochs that "
            f"cycles='renda' takes to reach the target: {cycles} cycles of "
            f"{length} epochs, {cycles * length} epochs. Received: {epochs} "
            "after the dense epochs"
        )
    return [length] * cycles
