"""Sparsity schedules: progress in [0, 1] -> sparsity, as plain functions."""


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


def geometric_counts(
    total: int, target_sparsity: float, cycles: int
) -> list[int]:
    """The exact number of pruned weights after each of `cycles` prunings.

    Every pruning but the last removes `round(q * remaining)` weights, with
    `q` the constant fraction that `geometric` implies; the last one ends at
    `round(target_sparsity * total)`. Python's `round`: half to even.

    Args:
        total: Integer, the number of prunable weights.
        target_sparsity: Float in [0, 1).
        cycles: Integer >= 1.

    Returns:
        A list of `cycles` integers, none smaller than the one before it.

    Example:

    >>> keras_bimp.sparsity.geometric_counts(1528, 0.9, 3)
    [819, 1199, 1375]
    """
    final = round(target_sparsity * total)
    fraction = geometric(1 / cycles, target_sparsity)
    counts = []
    pruned = 0
    for _ in range(cycles - 1):
        pruned = min(pruned + round(fraction * (total - pruned)), final)
        counts.append(pruned)
    return [*counts, final]
