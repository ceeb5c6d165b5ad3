"""Pruning stability."""

from keras_bimp._src.checks import check_positive
from keras_bimp._src.checks import check_rate


def pruning_stability(before: float, after: float) -> float:
    """Returns the fraction of a metric that is left directly after pruning.

    ```python
    stability = 1 - (before - after) / before
    ```

    Args:
        before: Float > 0, an accuracy just before the last pruning. Higher
            must be better.
        after: Float >= 0, the same metric just after it.

    Returns:
        A float: 1 if pruning lost nothing, 0 if it lost everything.

    Raises:
        ValueError: If `before` is not > 0 or `after` is not a number >= 0.

    Example:

    >>> keras_bimp.metrics.pruning_stability(0.8, 0.6)
    0.75

    Reference:

    - Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love
      Retraining", ICLR 2023, Appendix A.1.
    """
    check_positive("before", before)
    check_rate("after", after)
    return 1 - (before - after) / before
