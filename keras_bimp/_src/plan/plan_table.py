"""A plan as text."""

import rich.box
import rich.table

from keras_bimp._src.name_lists import listed
from keras_bimp._src.schedules import ALLR
from keras_bimp._src.schedules import schedule_values
from keras_bimp._src.text_tables import printed


def as_table(plan) -> str:
    """Return the text of `str(plan)`: facts and a table of the phases."""
    return "\n".join([*_facts(plan), printed(_table(plan), 79)])


def _facts(plan):
    if plan.prunable:
        total = sum(size for _, size in plan.prunable)
        yield f"{len(plan.prunable)} prunable kernels, {total:,} weights"
    if plan.pruning:
        yield f"prunes {plan.pruning}"
    for reason, paths in _by_reason(plan.skipped).items():
        if len(paths) > 3:
            yield f"not pruned: {len(paths)}: {listed(paths)} ({reason})"
        else:
            yield from (f"not pruned: {path} ({reason})" for path in paths)
    for reason, paths in _by_reason(plan.staying).items():
        yield f"pruned, but `shrink` keeps it: {listed(paths)} ({reason})"
    if plan.chosen:
        yield f"chosen automatically: {', '.join(plan.chosen)}"
    yield f"peak learning rate {plan.peak:g} ({plan.peak_source})"
    epochs = {plan.rewind_epoch(phase) for phase in plan.phases} - {None}
    for epoch in sorted(epochs):
        yield f"rewinds to the weights after {epoch} dense epochs"
    formula = plan.retraining.formula
    if "d2" in formula and plan.original_epochs is None:
        yield (
            "T of d2 unknown (pass original_epochs): d = min(1, d1), even for "
            "short cycles"
        )
    elif "d2" in formula:
        yield f"discount d = {formula}"
        yield f"T of d2: {plan.original_epochs:g} epochs"
    elif formula:
        yield f"discount d = {formula}"


def _by_reason(skipped):
    found = {}
    for path, reason in skipped:
        found.setdefault(reason, []).append(path)
    return found


def _table(plan):
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for title in ("phase", "epochs", "steps", "sparsity", "weights left"):
        table.add_column(title, justify="left" if title == "phase" else "right")
    table.add_column("learning rate")
    total = sum(size for _, size in plan.prunable)
    before = 0.0
    rows = zip(plan.phases, plan.pruned(total), plan.schedules(), strict=True)
    for phase, pruned, schedule in rows:
        table.add_row(
            phase.name,
            f"{phase.start_epoch + 1}-{phase.end_epoch}",
            f"{plan.steps(phase):,}",
            f"{before:.2%} -> {phase.sparsity:.2%}"
            if phase.prunes
            else f"{phase.sparsity:.2%}",
            f"{total - pruned:,}" if total else "?",
            _rates(schedule, plan.steps(phase), phase.prunes),
        )
        before = phase.sparsity
    return table


def _rates(schedule, steps, prunes):
    if isinstance(schedule, ALLR):
        return f"adaptive, <= {schedule.peak:g}"
    values = schedule_values(schedule, steps)
    start = values.max() if prunes else values[0]
    return f"{start:g} -> {values[-1]:.2g}"
