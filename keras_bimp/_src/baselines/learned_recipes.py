"""The pruning-stable methods without a target sparsity."""

from keras_bimp._src import selection
from keras_bimp._src.baselines import learned_rules as rules
from keras_bimp._src.baselines.gradual_pruning import GradualPruning
from keras_bimp._src.baselines.recipes import Recipe


def soft_threshold_reparameterization(
    *, s_init: float = -5.0, weight_decay: float = 5e-4, verbose: int = 1
) -> Recipe:
    """Soft threshold reparameterization: learns thresholds.

    The sparsity depends on `s_init` and the weight decay.

    Args:
        s_init: Float, initial value of the thresholds' logits.
        weight_decay: Float >= 0, coupled, of these logits; the same as that of
            the kernels.
        verbose: 0 or 1.

    Returns:
        A `Recipe`.

    Example:

    >>> recipe = keras_bimp.baselines.str(s_init=-3.0)  # Used as in `gmp`.
    >>> recipe.rule.s_init
    -3.0

    Reference:

    - Kusupati et al., "Soft Threshold Weight Reparameterization for Learnable
      Sparsity", ICML 2020.
    """
    return _watching(rules.SoftThreshold(s_init, weight_decay), verbose)


def cs(
    *,
    s_init: float = 0.05,
    penalty: float = 1e-8,
    beta_final: float = 300.0,
    verbose: int = 1,
) -> Recipe:
    """Continuous sparsification: one gate per weight, which closes or opens.

    The sparsity depends on `s_init` and the penalty.

    Args:
        s_init: Float, initial value of the gates' logits.
        penalty: Float >= 0.
        beta_final: Float > 0, the steepness of the gates at the end.
        verbose: 0 or 1.

    Returns:
        A `Recipe`.

    Example:

    >>> recipe = keras_bimp.baselines.cs(s_init=0.1)  # Used as in `gmp`.
    >>> recipe.rule.s_init
    0.1

    Reference:

    - Savarese, Silva, Maire, "Winning the Lottery with Continuous
      Sparsification", NeurIPS 2020.
    """
    return _watching(rules.SigmoidGate(s_init, penalty, beta_final), verbose)


def dst(*, alpha: float = 5e-5, verbose: int = 1) -> Recipe:
    """Dynamic sparse training: learns one threshold per output unit.

    The sparsity depends on the penalty.

    Args:
        alpha: Float >= 0, the penalty.
        verbose: 0 or 1.

    Returns:
        A `Recipe`.

    Example:

    >>> recipe = keras_bimp.baselines.dst(alpha=1e-4)  # Used as in `gmp`.
    >>> recipe.rule.alpha
    0.0001

    Reference:

    - Liu et al., "Dynamic Sparse Training", ICLR 2020.
    """
    return _watching(rules.StepThreshold(alpha), verbose)


def _watching(rule, verbose):
    callback = GradualPruning(rule, selection.as_policy(), verbose=verbose)
    return Recipe(rule, [callback])
