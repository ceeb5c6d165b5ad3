"""The parts that a page is made of, as elements of HTML."""

import re
from collections.abc import Iterable
from collections.abc import Sequence
from xml.etree import ElementTree

from keras_bimp._src.reporting.numerals import NONE

# What HTML or UTF-8 cannot hold.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]"
)


def element(tag: str, *content, **attributes) -> ElementTree.Element:
    """Makes an element of HTML or SVG.

    Args:
        tag: Its name.
        *content: Elements, and a string before or after any of them; a `None`
            is left out.
        **attributes: Numbers and strings. `class_` stands for `class`,
            `text_anchor` for `text-anchor`.
    """
    made = ElementTree.Element(tag)
    for name, value in attributes.items():
        if isinstance(value, float):
            value = f"{value:.2f}".rstrip("0").rstrip(".")
        made.set(name.rstrip("_").replace("_", "-"), _printable(str(value)))
    for part in content:
        if isinstance(part, ElementTree.Element):
            made.append(part)
        elif part is not None and len(made):
            made[-1].tail = _printable(part)
        elif part is not None:
            made.text = _printable(part)
    return made


def figure(
    caption: str, *drawn: ElementTree.Element, note: str | None = None
) -> ElementTree.Element:
    """Makes a figure of one or more charts."""
    return element(
        "figure",
        element("figcaption", caption),
        *drawn,
        element("p", note, class_="soft") if note else None,
    )


def pairs(
    title: str, found: Iterable[tuple[str, str]]
) -> ElementTree.Element | None:
    """Makes a section of names and what is said of them."""
    items = [
        element("div", element("dt", name), element("dd", text))
        for name, text in found
    ]
    if not items:
        return None
    return section(title, element("dl", *items, class_="pairs"))


def section(title: str, *content) -> ElementTree.Element:
    """Makes a section with a heading."""
    return element("section", element("h2", title), *content)


def table(
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    totals: Sequence[Sequence[str]] = (),
) -> ElementTree.Element | None:
    """Makes a section with a table; the first column names the rows.

    Columns with nothing in any row are left out.

    Args:
        title: Of the section.
        headings: Of the columns; `>` before one says that it holds numbers.
        rows: Of cells.
        totals: Rows at the foot.
    """
    if not rows:
        return None
    columns = [
        i for i in range(len(headings)) if any(row[i] != NONE for row in rows)
    ]
    headings, rows, totals = (
        [headings[i] for i in columns],
        [[row[i] for i in columns] for row in rows],
        [[row[i] for i in columns] for row in totals],
    )
    kinds = ["number" if h.startswith(">") else "word" for h in headings]
    head = [
        element("th", heading.removeprefix(">"), scope="col", class_=kind)
        for heading, kind in zip(headings, kinds, strict=True)
    ]
    parts = [element("thead", element("tr", *head))]
    for tag, lines in (("tbody", rows), ("tfoot", totals)):
        if lines:
            made = [_row(line, kinds) for line in lines]
            parts.append(element(tag, *made))
    # With a place in the order of focus, so that the keyboard can scroll it.
    box = element(
        "div",
        element("table", *parts),
        class_="scroll",
        role="region",
        aria_label=title,
        tabindex=0,
    )
    return section(title, box)


def _row(cells, kinds):
    # A path may be broken after its slashes.
    parts = re.split("(?<=/)", cells[0])
    broken = [piece for part in parts for piece in (part, element("wbr"))]
    name = element("th", *broken[:-1], scope="row", class_=kinds[0])
    rest = [
        element("td", cell, class_=kind)
        for cell, kind in zip(cells[1:], kinds[1:], strict=True)
    ]
    return element("tr", name, *rest)


def _printable(text):
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
