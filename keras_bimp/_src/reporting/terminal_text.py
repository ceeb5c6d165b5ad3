"""The report as text, for the terminal."""

import rich.box
import rich.table

from keras_bimp._src.reporting.facts import Report
from keras_bimp._src.reporting.key_numbers import key_numbers
from keras_bimp._src.reporting.report_tables import tables
from keras_bimp._src.text_tables import printed

_WIDTH = 132


def table(report: Report) -> str:
    """The kernels, their totals, and all else that was measured, as text."""
    parts = [f'Pruning report of "{report.name}"', report.state]
    parts += map(_as_text, tables(report))
    parts.append("")
    for label, value, note in key_numbers(report):
        parts.append(f"{label}: {value}" + (f" ({note})." if note else "."))
    for verdict in report.verdicts:
        parts.append(f"{verdict.target}: {verdict.text}")
    for what, why in (*report.not_counted, *report.missing):
        parts.append(f"Not in these numbers: {what}: {why}.")
    return "\n".join(parts)


def _as_text(found):
    shown = rich.table.Table(
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        title=f"\n{found.title}",
        title_justify="left",
    )
    for heading in found.headings:
        right = heading.startswith(">")
        shown.add_column(
            heading.removeprefix(">").replace(" |", "\n").replace("|", "\n"),
            justify="right" if right else "left",
            no_wrap=right,
            overflow="fold",
        )
    for row in found.rows:
        shown.add_row(*row)
    shown.add_section()
    for row in found.totals:
        shown.add_row(*row)
    return printed(shown, _WIDTH)
