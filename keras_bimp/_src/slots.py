"""Find and reset the optimizer slots of pruned weights."""

import functools
import math

import keras
import numpy as np
from keras import ops

from keras_bimp._src.backends import as_array
from keras_bimp._src.backends import outside_strategies
from keras_bimp._src.keras_internals.optimizer_state import lists_of_slots
from keras_bimp._src.keras_internals.optimizer_state import slots_of

# Number of entries of a variable that are changed in one operation.
_PART = 1 << 22
# Keras 3.13 does not have it.
MULTI_OPTIMIZER = getattr(keras.optimizers, "MultiOptimizer", ())


def chain(optimizer) -> list[keras.optimizers.Optimizer]:
    """Return an optimizer and its inner ones, below loss scaling."""
    found = [optimizer]
    while isinstance(found[-1], keras.optimizers.LossScaleOptimizer):
        found.append(found[-1].inner_optimizer)
    return found


def innermost(optimizer) -> keras.optimizers.Optimizer:
    """Return the optimizer below loss scaling, whose learning rate counts."""
    return chain(optimizer)[-1]


def check_optimizer(optimizer) -> None:
    """Raise TypeError if `optimizer` is not a Keras optimizer, or several."""
    several = isinstance(optimizer, list | tuple)
    for one in optimizer if several else [optimizer]:
        if not isinstance(one, keras.optimizers.Optimizer):
            raise TypeError(
                "`optimizer` must be a keras.optimizers.Optimizer or a list "
                "of them: the slots of other optimizers are not "
                f"known. Received: optimizer={optimizer!r}"
            )


def leaves(optimizer) -> list[keras.optimizers.Optimizer]:
    """Return the optimizers that hold slots, of one or several."""
    if isinstance(optimizer, list | tuple):
        return [leaf for one in optimizer for leaf in leaves(one)]
    optimizer = innermost(optimizer)
    if isinstance(optimizer, MULTI_OPTIMIZER):
        return list(optimizer.optimizers)
    return [optimizer]


def zero_pruned(kernels, masks, optimizer, weights: bool = True) -> None:
    """Set pruned weights and their optimizer slots to 0.

    A slot that does not start at 0 is reset to its initial value.

    Args:
        kernels: List of kernels, `keras.Variable`s.
        masks: List of their masks, boolean `keras.Variable`s, True = kept.
        optimizer: The optimizer that trains them, a list of several, or
            `None`.
        weights: Whether to set the weights too, not only their slots.
    """
    remembered = [[] for _ in kernels]
    if optimizer is not None and kernels:
        remembered = slots(optimizer, kernels)
    for kernel, mask, pairs in zip(kernels, masks, remembered, strict=True):
        for variable, value in [(kernel, 0.0), *pairs] if weights else pairs:
            value = ops.cast(value, variable.dtype)
            parts = _parts(variable)
            if parts is None:
                kept = ops.where(mask.value, variable.value, value)
                variable.assign(kept)
                continue
            for part in parts:
                kept = ops.where(mask.value[part], variable.value[part], value)
                variable.value[part].assign(kept)


def _parts(variable):
    """Return slices of a large variable, to be changed one by one.

    This avoids a second copy in memory. Returns `None` for small variables,
    and for those not held by TensorFlow, which alone changes them in place.
    """
    size = math.prod(variable.shape)
    # Not the variables of a strategy, which have several values.
    plain = type(variable.value).__name__ == "ResourceVariable"
    if not plain or size <= _PART:
        return None
    rows = max(_PART * variable.shape[0] // size, 1)
    return [
        slice(start, start + rows)
        for start in range(0, variable.shape[0], rows)
    ]


def slots(optimizer, kernels: list[keras.Variable]) -> list[list[tuple]]:
    """Return the slots with one entry per entry of a kernel.

    Returns:
        For each kernel a list of pairs (slot variable, initial value of the
        slot for weights that are 0).
    """
    found = [[] for _ in kernels]
    known = not any(leaf.built for leaf in leaves(optimizer))
    for leaf in leaves(optimizer):
        if not leaf.built:
            continue
        starts = outside_strategies(functools.partial(_starting_values, leaf))
        for kernel, pairs in zip(kernels, found, strict=True):
            there = slots_of(leaf, kernel)
            if there is not None:
                known = True
                pairs += [(slot, starts.get(name, 0.0)) for name, slot in there]
    if not known:
        raise ValueError(
            "`optimizer` must be the one that trains the model. "
            f"Received: optimizer={optimizer}, built for other variables"
        )
    return found


def all_slots(optimizer) -> list[keras.Variable]:
    """Return all slots of an optimizer."""
    return [
        slot
        for leaf in leaves(optimizer)
        if leaf.built
        for _, per_variable in lists_of_slots(leaf)
        for slot in per_variable
        if slot is not None
    ]


def _starting_values(optimizer):
    """Return the initial value of each kind of slot for a zero kernel."""
    probe = keras.Variable(np.zeros((2, 2)), dtype="float32")
    fresh = _fresh(optimizer)
    fresh.build([probe])
    return {
        name: float(as_array(slot).flat[0])
        for name, slot in slots_of(fresh, probe)
    }


def _fresh(optimizer):
    try:
        config = optimizer.get_config()
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            "The optimizer and its learning-rate schedule must implement "
            f"`get_config()`. Received: optimizer={optimizer}: {error}"
        ) from error
    config["learning_rate"] = 0.1
    try:
        return type(optimizer).from_config(config)
    except TypeError as error:
        raise ValueError(
            "The optimizer's `get_config()` must return the arguments of its "
            f"`__init__()`. Received: optimizer={optimizer}: {error}"
        ) from error


def ranks_moved(optimizer, ranks: set[int]) -> set[int]:
    """Return the ranks of kernels whose zeros an optimizer moves.

    Momentum, adaptive and sign methods work elementwise. Optimizers that mix
    the entries of a kernel, such as Muon, bring pruned weights back. Each
    optimizer is tried on a small kernel of each rank.

    Raises:
        ValueError: If the optimizer makes weights NaN, or averages weights and
            brings pruned ones back. Adafactor divides 0 by 0 if a row and a
            column of the gradient are 0, unless the square of its `epsilon_1`
            is representable.
    """
    moved = set()
    for leaf in leaves(optimizer):
        for rank in ranks:
            pruned = outside_strategies(
                functools.partial(_pruned_after_two_steps, leaf, rank)
            )
            if np.isnan(pruned).any():
                remedy = "Use SGD or Adam"
                if isinstance(leaf, keras.optimizers.Adafactor):
                    remedy = "Pass it epsilon_1=1e-15"
                raise ValueError(
                    "The optimizer must keep weights finite that are 0 and "
                    f"get no gradient. Received: {type(leaf).__name__}, "
                    f"which makes them NaN. {remedy}"
                )
            if pruned.any():
                if leaf.use_ema:
                    raise ValueError(
                        "`use_ema` must be False for an optimizer that mixes "
                        "the entries of a kernel: the averages of pruned "
                        "weights would not be 0. "
                        f"Received: {type(leaf).__name__} with use_ema=True"
                    )
                moved.add(rank)
    return moved


def _pruned_after_two_steps(optimizer, rank):
    rng = np.random.default_rng(0)
    shape = (4,) * rank
    # An irregular mask, since mixing rows or columns may keep a regular one.
    # One row and one column are empty.
    mask = rng.random(shape) < 0.5
    mask[1] = mask[..., 0] = False
    kernel = keras.Variable(mask * rng.random(shape), dtype="float32")
    gradient = ops.convert_to_tensor(mask * rng.random(shape), "float32")
    fresh = _fresh(optimizer)
    fresh.gradient_accumulation_steps = None
    fresh.build([kernel])
    for _ in range(2):
        fresh.apply([gradient])
    return as_array(kernel)[~mask]
