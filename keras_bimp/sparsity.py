"""Sparsity schedules: progress in [0, 1] -> sparsity, as plain functions."""

from collections.abc import Sequence


def geometric(progress: float, target_sparsity: float) -> float:
    """Removes the same fraction of what remains in every equal step.

    ```python
    sparsity = 1 - (1 - target_sparsity) ** progress
    ```

    After cycle `j` of `J` the progress is `j / J`. This is the schedule of
    iterative magnitude pruning, also called exponential.

    Args:
        progress: Float in [0, 1].
        target_sparsity: Float in [0, 1), the sparsity at progress 1.

    Returns:
        The sparsity at `progress`, a float in [0, `target_sparsity`].

    Example:

    >>> [keras_bimp.sparsity.geometric(j / 2, 0.75) for j in (0, 1, 2)]
    [0.0, 0.5, 0.75]

    Reference:

    - Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love
      Retraining", ICLR 2023, Section 2.
    """
    return 1.0 - (1.0 - target_sparsity) ** progress


def chained_counts(total: int, sparsities: Sequence[float]) -> list[int]:
    """The exact number of pruned weights after each of several prunings.

    Every pruning but the last removes `round(q * remaining)` weights, with
    `q` the fraction of what remains that its sparsity implies; the last one
    ends at `round(sparsity * total)`. Python's `round`: half to even.

    Args:
        total: Integer, the number of prunable weights.
        sparsities: Floats in [0, 1), the sparsity after each pruning.

    Returns:
        A list of as many integers, none smaller than the one before it.

    Example:

    >>> keras_bimp.sparsity.chained_counts(1000, [0.5, 0.75, 0.9])
    [500, 750, 900]
    """
    final = round(sparsities[-1] * total)
    counts, pruned, before = [], 0, 0.0
    for sparsity in sparsities[:-1]:
        fraction = max(0.0, 1 - (1 - sparsity) / (1 - before))
        pruned = min(pruned + round(fraction * (total - pruned)), final)
        counts.append(pruned)
        before = max(before, sparsity)
    return [*counts, final]
