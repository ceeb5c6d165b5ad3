"""What an optimizer remembers of pruned weights, and forgetting it."""

import functools
import math

import keras
import numpy as np
from keras import ops

from keras_bimp._src.backends import as_array
from keras_bimp._src.backends import outside_strategies
from keras_bimp._src.keras_internals.optimizer_state import lists_of_slots
from keras_bimp._src.keras_internals.optimizer_state import slots_of

# Entries of a variable that are changed at once.
_PART = 1 << 22
# Keras 3.13 does not have it yet.
MULTI_OPTIMIZER = getattr(keras.optimizers, "MultiOptimizer", ())


def chain(optimizer) -> list[keras.optimizers.Optimizer]:
    """An optimizer and those inside it, below loss scaling."""
    found = [optimizer]
    while isinstance(found[-1], keras.optimizers.LossScaleOptimizer):
        found.append(found[-1].inner_optimizer)
    return found


def innermost(optimizer) -> keras.optimizers.Optimizer:
    """The optimizer whose learning rate counts, below loss scaling."""
    return chain(optimizer)[-1]


def check_optimizer(optimizer) -> None:
    """Raises TypeError if an argument `optimizer` holds none of Keras."""
    several = isinstance(optimizer, list | tuple)
    for one in optimizer if several else [optimizer]:
        if not isinstance(one, keras.optimizers.Optimizer):
            raise TypeError(
                "`optimizer` must be a keras.optimizers.Optimizer or a list "
                "of them: what others remember of pruned weights is not "
                f"known. Received: optimizer={optimizer!r}"
            )


def leaves(optimizer) -> list[keras.optimizers.Optimizer]:
    """The optimizers that hold the slots, of one or a list of several."""
    if isinstance(optimizer, list | tuple):
        return [leaf for one in optimizer for leaf in leaves(one)]
    optimizer = innermost(optimizer)
    if isinstance(optimizer, MULTI_OPTIMIZER):
        return list(optimizer.optimizers)
    return [optimizer]


def zero_pruned(kernels, masks, optimizer, weights: bool = True) -> None:
    """Sets pruned weights, and what the optimizer remembers of them, to 0.

    A slot that does not start at 0 gets its starting value back.

    Args:
        kernels: List of kernels, `keras.Variable`s.
        masks: List of their masks, boolean `keras.Variable`s, True = kept.
        optimizer: The optimizer that trains them, a list of several, or
            `None`.
        weights: Whether the weights too, or only what is remembered of them.
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
    """Slices of a large variable, to be changed one after the other.

    It would be in memory twice otherwise. `None` for a small one, and where
    TensorFlow does not hold it, which alone changes variables in place.
    """
    size = math.prod(variable.shape)
    # Not those of a strategy, which are several.
    plain = type(variable.value).__name__ == "ResourceVariable"
    if not plain or size <= _PART:
        return None
    rows = max(_PART * variable.shape[0] // size, 1)
    return [
        slice(start, start + rows)
        for start in range(0, variable.shape[0], rows)
    ]


def slots(optimizer, kernels: list[keras.Variable]) -> list[list[tuple]]:
    """The optimizer's variables that hold one entry per entry of a kernel.

    Returns:
        For each kernel a list of pairs (slot variable, value that the slot
        starts from where the kernel is 0).
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
    """All that an optimizer remembers of the variables it trains."""
    return [
        slot
        for leaf in leaves(optimizer)
        if leaf.built
        for _, per_variable in lists_of_slots(leaf)
        for slot in per_variable
        if slot is not None
    ]


def _starting_values(optimizer):
    """What each kind of slot is initialised to for a kernel of zeros."""
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
    """The ranks of kernels whose zeros an optimizer moves without a gradient.

    Momentum, adaptive and sign methods work entry by entry. One that mixes
    the entries of a kernel, as Muon does, brings pruned weights back. Each
    optimizer is tried out on a small kernel of each rank.

    Raises:
        ValueError: If it makes weights NaN. Adafactor does: it divides 0 by 0
            where a row and a column of the gradient are 0, unless its
            `epsilon_1` is large enough to be squared. Or if it averages
            weights and brings pruned ones back.
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
                    "The optimizer must leave a weight finite that is 0 and "
                    f"gets no gradient. Received: {type(leaf).__name__}, "
                    f"which makes it NaN. {remedy}"
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
    # An irregular mask: what mixes rows or columns may keep a regular one.
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
