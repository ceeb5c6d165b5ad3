"""The discount of the peak rate in ALLR."""

import math

import keras


def discount_factor(
    norm_drop: float,
    pruned_fraction: float,
    retrain_epochs: float,
    original_epochs: float | None,
) -> tuple[float, float, float]:
    """Compute ALLR's discount of the peak rate after a pruning.

    ```python
    if not pruned_fraction and original_epochs is None:
        return 0.0, 0.0, 1.0  # There is nothing to adapt to.
    d1 = norm_drop / sqrt(pruned_fraction)
    d2 = min(retrain_epochs / original_epochs, 1)
    d = min(1, max(d1, d2))
    ```

    Args:
        norm_drop: Float in [0, 1]: the norm of the change of all prunable
            weights, divided by their norm just before the pruning.
        pruned_fraction: Float in [0, 1]: the share of the remaining weights
            that the pruning removed. If 0, `d1` is 0; if `d2` is also
            unknown, `d` is 1.
        retrain_epochs: Length of this cycle's retraining, in epochs.
        original_epochs: Length of the original training, in epochs. If
            `None`, `d2` is 0.

    Returns:
        The tuple `(d1, d2, d)`.

    Example:

    >>> keras_bimp.schedules.discount_factor(
    ...     0.3, 0.36, retrain_epochs=10, original_epochs=100
    ... )
    (0.5, 0.1, 0.5)

    Reference:

    - Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love
      Retraining", ICLR 2023, Section 2.1.
    """
    if not pruned_fraction and original_epochs is None:
        return 0.0, 0.0, 1.0  # There is nothing to adapt to.
    d1 = norm_drop / math.sqrt(pruned_fraction) if pruned_fraction else 0.0
    d2 = 0.0
    if original_epochs is not None:
        d2 = min(retrain_epochs / original_epochs, 1.0)
    return d1, d2, min(1.0, max(d1, d2))


def discount_variable(value: float = 1.0) -> keras.Variable:
    """Create a scalar variable for the discount of one cycle."""
    return keras.Variable(
        value, dtype="float32", trainable=False, autocast=False
    )
