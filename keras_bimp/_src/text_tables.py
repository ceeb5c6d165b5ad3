"""Format tables as text."""

import io
from collections.abc import Sequence

import rich.box
import rich.console
import rich.table


def tabulated(
    titles: Sequence[str], rows: Sequence[Sequence[str]], width: int = 100
) -> str:
    """Format a table with text in the outer columns and numbers between.

    Args:
        titles: Titles of the columns.
        rows: Text of the cells.
        width: Maximum number of characters per line.
    """
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for i, title in enumerate(titles):
        is_words = i in (0, len(titles) - 1)
        table.add_column(
            title, justify="left" if is_words else "right", overflow="fold"
        )
    for row in rows:
        table.add_row(*row)
    lines = printed(table, width).splitlines()
    return "\n".join(line for line in lines if line)


def printed(table: rich.table.Table, width: int) -> str:
    """Return a table as text without colours, markup or trailing spaces."""
    console = rich.console.Console(
        file=io.StringIO(),
        width=width,
        color_system=None,
        markup=False,
        highlight=False,
        emoji=False,
    )
    console.print(table)
    lines = console.file.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines)
