"""The selection that is chosen where the user leaves it open."""

from keras_bimp._src import selection
from keras_bimp._src.checks import check_choice
from keras_bimp._src.checks import check_sparsity
from keras_bimp._src.plan import Plan
from keras_bimp._src.plan import allocation_for
from keras_bimp._src.plan import is_auto


def automatic_policy(
    target_sparsity: float | Plan, allocation, *how
) -> tuple[selection.Policy, tuple[str, ...]]:
    """Returns the policy of a run, and what of it was chosen.

    Args:
        target_sparsity: Of the run, or its plan.
        allocation: What `as_policy` takes, or `"auto"`.
        *how: The arguments of `as_policy` that follow.

    Returns:
        The tuple `(policy, chosen)`, chosen as `Plan` has it.
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
    """Returns the cycles, and what of them was chosen: of N:M, one."""
    if is_auto(cycles) and policy.granularity.sparsity is not None:
        return 1, ("cycles=1",)
    return cycles, ()
