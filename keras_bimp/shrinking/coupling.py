"""Which filters of a model can only go together."""

import keras
import numpy as np

from keras_bimp.shrinking.following import Followed
from keras_bimp.shrinking.following import inside
from keras_bimp.shrinking.following import is_graph


def filter_groups(
    model: keras.Model, kernels: list[keras.Variable]
) -> list[np.ndarray]:
    """Finds which filters feed the same channels.

    Filters whose outputs are added or multiplied, as along the residual stream
    of a ResNet, feed one channel: it goes only if all of them are pruned.

    Args:
        model: A built Functional or Sequential model, wrapped or not.
        kernels: Kernels of the model.

    Returns:
        For each kernel an array with one number per filter, or output unit.
        Filters with the same number go together, in whatever kernel they are.
        Those of a layer that could not be followed go each alone.

    Raises:
        ValueError: If the model is neither Functional nor Sequential.
    """
    plain = inside(model)
    if not is_graph(plain):
        raise ValueError(
            "`model` must be Functional or Sequential, for it to be known "
            "which filters go together. Received: model of class "
            f"{type(plain).__name__}"
        )
    followed = Followed(plain)
    found = {
        id(kernel): numbers
        for rule in followed.rules.values()
        if rule.calls
        for kernel, numbers in rule.filters()
    }
    roots = followed.classes.roots()
    groups, free = [], len(roots)
    for kernel in kernels:
        if id(kernel) in found:
            groups.append(roots[found[id(kernel)]])
            continue
        # More than it can have: its outputs lie along some axis or several.
        size = int(np.prod(kernel.shape))
        groups.append(np.arange(free, free + size))
        free += size
    return groups
