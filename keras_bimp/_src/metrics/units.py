"""Counts the units, heads and filters that are left."""

import keras

from keras_bimp._src.masking import find_prunable
from keras_bimp._src.metrics.effective_kernels import EffectiveKernels
from keras_bimp._src.selection import Structures
from keras_bimp._src.shrinking import find_units


def units(model: keras.Model) -> dict[str, tuple[int, int]]:
    """Counts the units, heads and filters of each layer that are not all 0.

    Only those that `keras_bimp.shrink` can remove are counted. Outputs of the
    model are not, nor are the channels of a residual stream that a
    `LayerNormalization` reads.

    Args:
        model: A built Functional or Sequential model: plain, wrapped or
            stripped.

    Returns:
        A dict from a name such as `"heads of attention"` to a pair: how many
        have a nonzero weight, and how many there are.

    Raises:
        ValueError: If the model is neither Functional nor Sequential.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((3,)), keras.layers.Dense(8), keras.layers.Dense(2)]
    ... )
    >>> wrapped = keras_bimp.wrap(model)
    >>> pruning = keras_bimp.prune(wrapped, 0.75, granularity="unit")
    >>> keras_bimp.metrics.units(wrapped)
    {'units of dense': (2, 8)}
    """
    return units_left(model, EffectiveKernels(model))


def units_left(
    model: keras.Model, effective: EffectiveKernels
) -> dict[str, tuple[int, int]]:
    """Counts as `units`, with the effective kernels already known."""
    found = find_prunable(model, lambda layer: True)
    variables = [
        kernel.variable
        for kernel in [
            *found.kernels,
            *(kernel for kernel, _ in found.left_out),
        ]
    ]
    parts, _ = find_units(model, variables)
    structures = Structures(parts)
    alive = structures.alive(
        [
            keras.ops.convert_to_numpy(effective.value(variable)) != 0
            for variable in variables
        ]
    )
    return {
        pool.name: (int(alive[pool.members].sum()), len(pool.members))
        for pool in structures.pools
    }
