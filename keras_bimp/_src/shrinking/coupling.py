"""Finds filters and units that can only be removed together."""

import dataclasses

import keras
import numpy as np

from keras_bimp._src.selection import Part
from keras_bimp._src.shrinking.channel_rules import Barrier
from keras_bimp._src.shrinking.following import Followed
from keras_bimp._src.shrinking.following import inside
from keras_bimp._src.shrinking.following import is_graph


@dataclasses.dataclass(frozen=True)
class Groups:
    """The groups of filters of a model.

    Args:
        numbers: For each kernel, an array with one number per filter or output
            unit. Filters with the same number, in any kernel, are removed
            together. In layers that could not be followed, each filter is
            removed separately.
        stay: For each kernel, why none of its filters can be removed, or
            `None`.
    """

    numbers: list[np.ndarray]
    stay: list[str | None]


def filter_groups(
    model: keras.Model, kernels: list[keras.Variable]
) -> list[np.ndarray]:
    """Finds which filters feed the same channels.

    Filters whose outputs are added or multiplied, as along the residual stream
    of a ResNet, feed one channel. It is removed only if all of them are
    pruned.

    Args:
        model: A built Functional or Sequential model, wrapped or not.
        kernels: Kernels of the model.

    Returns:
        For each kernel, an array with one number per filter or output unit.
        Filters with the same number, in any kernel, are removed together. In
        layers that could not be followed, each filter is removed separately.

    Raises:
        ValueError: If the model is neither Functional nor Sequential.

    Example:

    >>> inputs = keras.Input((4,))
    >>> first = keras.layers.Dense(2)(inputs)
    >>> second = keras.layers.Dense(2)(inputs)
    >>> outputs = keras.layers.Dense(1)(first + second)
    >>> model = keras.Model(inputs, outputs)
    >>> kernels = [layer.kernel for layer in model.layers[1:3]]
    >>> one, other = keras_bimp.shrinking.filter_groups(model, kernels)
    >>> bool((one == other).all())
    True
    """
    return find_groups(model, kernels).numbers


def find_groups(model: keras.Model, kernels: list[keras.Variable]) -> Groups:
    """Finds filter groups, and which filters stay and why.

    Args:
        model: A built Functional or Sequential model, wrapped or not.
        kernels: Kernels of the model.

    Returns:
        An object with the attributes `numbers`, what `filter_groups` returns,
        and `stay`: for each kernel why none of its filters can ever be removed,
        or `None`.

    Raises:
        ValueError: If the model is neither Functional nor Sequential.

    Example:

    >>> inputs = keras.Input((4,))
    >>> first = keras.layers.Dense(2)(inputs)
    >>> second = keras.layers.Dense(2)(inputs)
    >>> outputs = keras.layers.Dense(1)(first + second)
    >>> model = keras.Model(inputs, outputs)
    >>> kernels = [layer.kernel for layer in model.layers[1:3]]
    >>> keras_bimp.shrinking.find_groups(model, kernels).stay
    [None, None]
    """
    followed = _follow(model)
    found = {
        id(kernel): numbers
        for rule in followed.rules.values()
        if rule.calls
        for kernel, numbers in rule.filters()
    }
    roots, why = followed.classes.roots(), followed.classes.reasons()
    groups, stay, free = [], [], len(roots)
    for kernel in kernels:
        if id(kernel) in found:
            numbers = roots[found[id(kernel)]]
            kept = [why.get(number) for number in numbers.tolist()]
            groups.append(numbers)
            stay.append(None if None in kept else kept[0])
            continue
        # At least as many as it has, since the output axes are unknown.
        size = int(np.prod(kernel.shape))
        groups.append(np.arange(free, free + size))
        stay.append(_why_not_followed(followed, kernel))
        free += size
    return Groups(groups, stay)


def find_units(
    model: keras.Model, kernels: list[keras.Variable]
) -> tuple[list[list[Part]], list[str | None]]:
    """Finds the units of a model, and the weights removed with each of them.

    Args:
        model: A built Functional or Sequential model, wrapped or not.
        kernels: The kernels of the model that may be pruned.

    Returns:
        For each kernel, its `Part`s, with the number -1 for weights that stay;
        and for each kernel, why it has none, or `None` if it has some.

    Raises:
        ValueError: If the model is neither Functional nor Sequential.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)]
    ... )
    >>> kernels = [layer.kernel for layer in model.layers]
    >>> parts, stay = keras_bimp.shrinking.find_units(model, kernels)
    >>> stay
    [None, None]
    >>> len(np.unique(parts[0][0].numbers))
    8
    """
    followed = _follow(model)
    rules = [rule for rule in followed.rules.values() if rule.calls]
    for rule in rules:
        for numbers in rule.together():
            followed.classes.unite(numbers[:-1], numbers[1:])
    parts = [pair for rule in rules for pair in rule.parts()]
    roots, why = followed.classes.roots(), followed.classes.reasons()
    may_go = {id(kernel) for kernel in kernels}
    settled = np.ones(len(roots), bool)
    for rule in rules:
        if not rule.settles:
            settled[roots[rule.calls[0].output.numbers]] = False
    computed = set()
    for kernel, part in parts:
        touched = np.unique(roots[part.numbers]).tolist()
        if part.computes:
            computed.update(touched)
        if id(kernel) in may_go:
            continue
        for root in touched:
            # Weights that read a constant need not be pruned with it.
            if part.computes or not settled[root]:
                why.setdefault(
                    root, f"'{kernel.path}' belongs to them and is not pruned"
                )
    goes = np.zeros(len(roots), bool)
    goes[[root for root in computed if root not in why]] = True
    found = {id(kernel): [] for kernel in kernels}
    reasons = {}
    for kernel, part in parts:
        if id(kernel) not in may_go:
            continue
        numbers = roots[part.numbers]
        if goes[numbers].any():
            numbers = np.where(goes[numbers], numbers, -1)
            found[id(kernel)].append(dataclasses.replace(part, numbers=numbers))
        elif part.computes:
            reasons[id(kernel)] = (
                f"its {part.kind} stay: {why[numbers.flat[0]]}"
            )
    return [found[id(kernel)] for kernel in kernels], [
        None
        if found[id(kernel)]
        else reasons.get(id(kernel)) or _why_not_followed(followed, kernel)
        for kernel in kernels
    ]


def _follow(model):
    plain = inside(model)
    if not is_graph(plain):
        raise ValueError(
            "`model` must be Functional or Sequential, so that its graph shows "
            "which filters or units belong together. Received: model of class "
            f"{type(plain).__name__}"
        )
    return Followed(plain)


def _why_not_followed(followed, kernel):
    for rule in followed.rules.values():
        operation = rule.operation
        if isinstance(operation, keras.Layer) and any(
            variable is kernel for variable in operation.weights
        ):
            if isinstance(rule, Barrier):
                return f"'{operation.name}': {rule.reason}"
            return f"'{operation.name}' has no units that can be removed"
    return "no layer in the graph of the model has it"
