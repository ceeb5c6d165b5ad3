"""One phase of a plan."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Phase:
    """Epochs with one sparsity and one learning-rate schedule.

    Args:
        name: "dense" or "cycle 1", "cycle 2", ...
        start_epoch: Integer >= 0, its first epoch.
        epochs: Integer >= 1, its length.
        sparsity: Float in [0, 1), the sparsity during the phase.
        prunes: Whether it begins with a pruning.
        pruned: Integer, the exact number of pruned weights; `None` to derive
            it from `sparsity`.

    Example:

    >>> phase = keras_bimp.Phase("cycle 1", 10, 5, sparsity=0.5, prunes=True)
    >>> phase.end_epoch
    15
    """

    name: str
    start_epoch: int
    epochs: int
    sparsity: float
    prunes: bool
    pruned: int | None = None

    @property
    def end_epoch(self) -> int:
        """The first epoch after the phase."""
        return self.start_epoch + self.epochs
