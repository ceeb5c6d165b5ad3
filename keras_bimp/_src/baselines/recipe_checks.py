"""Checks of a recipe's callback, before anything changes."""

import keras

from keras_bimp._src.baselines.global_sparse_momentum import (
    GlobalSparseMomentum,
)
from keras_bimp._src.baselines.learned_rules import SigmoidGate
from keras_bimp._src.baselines.magnitude_rules import DecayOutsideTop
from keras_bimp._src.baselines.magnitude_rules import StraightThrough
from keras_bimp._src.baselines.magnitude_rules import TopWeights
from keras_bimp._src.keras_internals.trainer import strategy_of
from keras_bimp._src.masking import Rule
from keras_bimp._src.masking import masked_layers
from keras_bimp._src.retraining.pruning_callback import Leader
from keras_bimp._src.retraining.targets import Targets
from keras_bimp._src.slots import innermost

# Rules that choose among all weights of one `Masked` in each step.
_CHOOSE_AMONG_ALL = (DecayOutsideTop, StraightThrough, TopWeights)


def check_rules(model: keras.Model, found: Targets, rule: Rule) -> None:
    """Raise ValueError unless a model is wrapped with the recipe's rule."""
    wanted = type(rule).__name__, rule.get_config()
    for target in found.targets:
        received = type(target.rule).__name__, target.rule.get_config()
        if received != wanted:
            raise ValueError(
                "`model` must be wrapped with the rule of the recipe: "
                "`keras_bimp.wrap(model, rule=recipe.rule)`. The recipe has "
                "{} {}. Received: {} with {} {}".format(
                    *wanted, target.path, *received
                )
            )
    masked = len(masked_layers(model))
    if isinstance(rule, _CHOOSE_AMONG_ALL) and masked > 1:
        raise ValueError(
            "`model` must be wrapped as a whole, with `keras_bimp.wrap`, for "
            "a method that chooses among all weights in each step. "
            f"Received: {masked} `Masked` layers, rule={wanted[0]}"
        )


def check_fit(callback: Leader, rule: Rule, by_step: bool) -> None:
    """Raise ValueError if a recipe's callback does not suit a `fit`.

    Args:
        callback: The callback.
        rule: The recipe's rule.
        by_step: Whether it prunes at the start of single steps.
    """
    if isinstance(rule, SigmoidGate) and callback.params.get("steps") is None:
        raise ValueError(
            "`fit` must know the length of an epoch, so that the gates close "
            "at the end: pass data of known length, or `steps_per_epoch`. "
            "Received: steps_per_epoch=None"
        )
    steps = callback.model.steps_per_execution
    if by_step and steps > 1:
        raise ValueError(
            "`steps_per_execution` must be 1 for a `schedule` that chooses "
            f"the steps to prune at. Received: steps_per_execution={steps}"
        )


def check_lc(model: keras.Model, found: Targets) -> None:
    """Raise ValueError if kernels have another weight decay."""
    del model
    for target in found.targets:
        if target.kernel.variable.regularizer is not None:
            raise ValueError(
                "Kernels must have no regularizer for a method with its own "
                "`weight_decay`. Received: "
                f"{target.path} with {target.kernel.variable.regularizer}"
            )


def check_gsm(model: keras.Model, found: Targets) -> None:
    """Raise ValueError unless a model is compiled for `gsm`."""
    check_lc(model, found)
    optimizer = innermost(model.optimizer)
    if not isinstance(optimizer, GlobalSparseMomentum):
        raise ValueError(
            "`model` must be compiled with the optimizer of the recipe: "
            "`model.compile(recipe.optimizer, ...)`. "
            f"Received: optimizer={type(optimizer).__name__}"
        )
    strategy = strategy_of(model)
    if strategy is not None and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "`gsm` must be trained in one replica: each would choose among "
            "the gradients of its own part of the batch. Received: "
            f"{type(strategy).__name__} of "
            f"{strategy.num_replicas_in_sync} replicas"
        )
