"""Choose the parts of the selection that the user does not give."""

from keras_bimp._src import selection
from keras_bimp._src.checks import check_choice
from keras_bimp._src.checks import check_sparsity
from keras_bimp._src.plan import Plan
from keras_bimp._src.plan import allocation_for
from keras_bimp._src.plan import is_auto


def automatic_policy(
    target_sparsity: float | Plan, allocation, *how
) -> tuple[selection.Policy, tuple[str, ...]]:
    """Return the policy of a run, and the settings chosen automatically.

    Args:
        target_sparsity: Target of the run, or its plan.
        allocation: As in `as_policy`, or `"auto"`.
        *how: The other arguments of `as_policy`.

    Returns:
        The tuple `(policy, chosen)`, with `chosen` as in `Plan`.
    """
    if isinstance(allocation, str):
        names = ["auto", *selection.ALLOCATIONS]
        check_choice("allocation", allocation, names)
    if not is_auto(allocation):
        return selection.as_policy(allocation, *how), ()
    policy = selection.as_policy(None, *how)
    if not (
        isinstance(policy.granularity, selection.Weight)
        and isinstance(policy.criterion, selection.Magnitude)
    ):
        return policy, ()
    if isinstance(target_sparsity, Plan):
        target_sparsity = target_sparsity.target_sparsity
    allocation = allocation_for(
        check_sparsity("target_sparsity", target_sparsity)
    )
    return (
        selection.as_policy(allocation, *how),
        (f"allocation={allocation!r}",),
    )


def automatic_cycles(
    cycles: int | str, policy: selection.Policy
) -> tuple[int | str, tuple[str, ...]]:
    """Return the cycles, and what was chosen: one cycle for N:M."""
    if is_auto(cycles) and policy.granularity.sparsity is not None:
        return 1, ("cycles=1",)
    return cycles, ()
