"""The pruning-stable methods with a target sparsity."""

from collections.abc import Callable
from typing import NamedTuple

import keras

from keras_bimp._src import selection
from keras_bimp._src.baselines import magnitude_rules as rules
from keras_bimp._src.baselines.global_sparse_momentum import (
    GlobalSparseMomentum,
)
from keras_bimp._src.baselines.gradual_pruning import GradualPruning
from keras_bimp._src.baselines.recipe_checks import check_gsm
from keras_bimp._src.baselines.recipe_checks import check_lc
from keras_bimp._src.checks import check_integer
from keras_bimp._src.masking import Hard
from keras_bimp._src.masking import Rule
from keras_bimp._src.sparsity_schedules import cubic


class Recipe(NamedTuple):
    """The arguments that a method needs.

    Attributes:
        rule: For `wrap`.
        callbacks: For `fit`.
        optimizer: For `compile`, or `None` if any optimizer works.

    Example:

    >>> rule, callbacks, optimizer = keras_bimp.baselines.gmp(0.9)
    >>> type(rule).__name__, len(callbacks), optimizer
    ('Soft', 1, None)
    """

    rule: Rule
    callbacks: list[keras.callbacks.Callback]
    optimizer: keras.optimizers.Optimizer | None = None


def gmp(
    target_sparsity: float,
    *,
    interval: int = 10,
    hard: bool = False,
    schedule: Callable = cubic,
    allocation=None,
    verbose: int = 1,
) -> Recipe:
    """Gradual magnitude pruning: sparsity increases during training.

    There are `epochs // interval - 1` prunings, before the epochs `interval`,
    `2 * interval`, ... (counted from 0). The learning rate is that of the
    optimizer: stepped, linear, or `baselines.Cyclic`.

    Args:
        target_sparsity: Float in [0, 1), reached exactly, unless a `schedule`
            by steps does not prune at its end: `fit` prints what was reached.
        interval: Integer >= 1, epochs between prunings.
        hard: Whether pruned weights are pruned for good. Otherwise they keep
            their value, without a gradient, and come back if others become
            smaller.
        schedule: Callable (progress, target) -> sparsity, with the progress in
            [0, 1]; or callable step -> (whether to prune, sparsity) with an
            attribute `frequency`, such as a `PruningSchedule` of
            tensorflow-model-optimization, which decides when to prune.
        allocation: See `keras_bimp.select`.
        verbose: 0 or 1.

    Returns:
        A `Recipe`.

    Raises:
        ValueError: When `fit` begins, if its epochs contain no pruning.

    Example:

    ```python
    recipe = keras_bimp.baselines.gmp(0.9, interval=5)
    model = keras_bimp.wrap(build_model(), rule=recipe.rule)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=20, callbacks=recipe.callbacks)
    model = keras_bimp.strip(model)
    ```

    Reference:

    - Zhu and Gupta, "To prune, or not to prune", 2017.
    """
    return _gradual(
        Hard() if hard else rules.Soft(),
        target_sparsity,
        interval,
        schedule,
        allocation,
        verbose,
    )


def dpf(
    target_sparsity: float,
    *,
    interval: int = 10,
    every: int = 16,
    schedule: Callable = cubic,
    allocation=None,
    verbose: int = 1,
) -> Recipe:
    """Dynamic pruning with feedback: pruned weights are still trained.

    The sparsity increases as in `gmp`. In between, the smallest weights are
    chosen again every `every` steps, and any weight may come back.

    Args:
        target_sparsity: Float in [0, 1), reached exactly.
        interval: See `gmp`.
        every: Integer >= 1, steps between choices.
        schedule: See `gmp`.
        allocation: `None` or `"global"`, like the choices in between.
        verbose: 0 or 1.

    Returns:
        A `Recipe`.

    Raises:
        ValueError: If the allocation is not global, or when `fit` begins, if
            its epochs contain no pruning.

    Example:

    >>> recipe = keras_bimp.baselines.dpf(0.9, interval=5)  # Used as in `gmp`.
    >>> recipe.rule.every
    16

    Reference:

    - Lin et al., "Dynamic Model Pruning with Feedback", ICLR 2020.
    """
    _check_global(allocation)
    return _gradual(
        rules.StraightThrough(every),
        target_sparsity,
        interval,
        schedule,
        allocation,
        verbose,
    )


def dnw(target_sparsity: float, *, allocation=None, verbose: int = 1) -> Recipe:
    """Discovering neural wirings: uses the largest weights in every call.

    All weights get a gradient.

    Args:
        target_sparsity: Float in [0, 1): `int(target * weights)` are pruned.
        allocation: `None` or `"global"`.
        verbose: 0 or 1.

    Returns:
        A `Recipe`.

    Raises:
        ValueError: If the allocation is not global.

    Example:

    >>> recipe = keras_bimp.baselines.dnw(0.9)  # Used as in `gmp`.
    >>> recipe.rule.target_sparsity
    0.9

    Reference:

    - Wortsman, Farhadi, Rastegari, "Discovering Neural Wirings", NeurIPS 2019.
    """
    _check_global(allocation)
    rule = rules.TopWeights(target_sparsity)
    callback = GradualPruning(
        rule, selection.as_policy(), rule.target_sparsity, verbose=verbose
    )
    return Recipe(rule, [callback])


def gsm(
    target_sparsity: float,
    *,
    learning_rate=0.1,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 5e-4,
    allocation=None,
    verbose: int = 1,
) -> Recipe:
    """Global sparse momentum: updates only the most important weights.

    The others decay towards 0. At the end they are pruned by magnitude.

    Args:
        target_sparsity: Float in [0, 1), reached exactly at the end.
        learning_rate: Float or schedule.
        momentum: Float in [0, 1).
        nesterov: Whether to use Nesterov momentum.
        weight_decay: Float >= 0, coupled. The kernels must not have another
            regularizer.
        allocation: Of the final pruning; see `keras_bimp.select`.
        verbose: 0 or 1.

    Returns:
        A `Recipe`, with the optimizer to compile with.

    Example:

    ```python
    recipe = keras_bimp.baselines.gsm(0.9, learning_rate=0.1)
    model = keras_bimp.wrap(build_model(), rule=recipe.rule)
    model.compile(recipe.optimizer, "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=20, callbacks=recipe.callbacks)
    model = keras_bimp.strip(model)
    ```

    Reference:

    - Ding et al., "Global Sparse Momentum SGD for Pruning Very Deep Neural
      Networks", NeurIPS 2019.
    """
    optimizer = GlobalSparseMomentum(
        target_sparsity,
        learning_rate=learning_rate,
        momentum=momentum,
        nesterov=nesterov,
        kernel_decay=weight_decay,
    )
    recipe = _at_the_end(
        rules.Soft(), target_sparsity, allocation, verbose, check_gsm
    )
    return recipe._replace(optimizer=optimizer)


def lc(
    target_sparsity: float,
    *,
    weight_decay: float = 5e-4,
    allocation=None,
    verbose: int = 1,
) -> Recipe:
    """Learning compression, as in the paper: small weights decay.

    Weight decay acts on all but the largest weights, chosen in every step. At
    the end the others are pruned by magnitude.

    Args:
        target_sparsity: Float in [0, 1), reached exactly at the end.
        weight_decay: Float >= 0, coupled. The kernels must not have another
            regularizer.
        allocation: Of the final pruning; see `keras_bimp.select`.
        verbose: 0 or 1.

    Returns:
        A `Recipe`.

    Example:

    >>> recipe = keras_bimp.baselines.lc(0.9)  # Used as in `gmp`.
    >>> recipe.rule.weight_decay
    0.0005

    Reference:

    - Carreira-Perpinan and Idelbayev, "Learning-Compression Algorithms for
      Neural Net Pruning", CVPR 2018.
    """
    rule = rules.DecayOutsideTop(target_sparsity, weight_decay)
    return _at_the_end(rule, target_sparsity, allocation, verbose, check_lc)


def gradual_sparsities(
    epochs: int, interval: int, target_sparsity: float, schedule=cubic
) -> dict[int, float]:
    """Return the prunings of `gmp`: epochs trained before -> sparsity.

    Args:
        epochs: Integer >= 1, length of the whole training.
        interval: Integer >= 1, epochs between prunings.
        target_sparsity: Float in [0, 1).
        schedule: Callable (progress, target) -> sparsity.

    Returns:
        A dict.

    Raises:
        ValueError: If there are no prunings.

    Example:

    >>> keras_bimp.baselines.gradual_sparsities(40, 10, 0.9)
    {10: 0.6333333333333333, 20: 0.8666666666666667, 30: 0.9}
    """
    prunings = epochs // interval - 1
    if prunings < 1:
        raise ValueError(
            "`interval` must be at most half of the epochs, or nothing is "
            f"pruned. Received: interval={interval}, epochs={epochs}"
        )
    return {
        i * interval: schedule(i / prunings, target_sparsity)
        for i in range(1, prunings + 1)
    }


def _gradual(rule, target_sparsity, interval, schedule, allocation, verbose):
    policy = selection.as_policy(allocation)
    target_sparsity = policy.check_target("target_sparsity", target_sparsity)
    check_integer("interval", interval, minimum=1)
    if hasattr(schedule, "frequency"):
        when = {"by_step": schedule}
    else:
        when = {
            "sparsities": lambda epochs: gradual_sparsities(
                epochs, interval, target_sparsity, schedule
            )
        }
    callback = GradualPruning(
        rule, policy, target_sparsity, verbose=verbose, **when
    )
    return Recipe(rule, [callback])


def _at_the_end(rule, target_sparsity, allocation, verbose, check):
    policy = selection.as_policy(allocation)
    callback = GradualPruning(
        rule,
        policy,
        policy.check_target("target_sparsity", target_sparsity),
        at_the_end=True,
        check=check,
        verbose=verbose,
    )
    return Recipe(rule, [callback])


def _check_global(allocation):
    if allocation not in (None, "global"):
        raise ValueError(
            "`allocation` must be global for a method that chooses among all "
            f"weights in each step. Received: allocation={allocation!r}"
        )
