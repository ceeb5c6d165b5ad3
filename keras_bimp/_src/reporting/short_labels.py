"""Names that fit into a chart."""

import itertools
import re
from collections.abc import Sequence

# What XML or UTF-8 cannot hold.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]"
)


def printable(text: str) -> str:
    """Replaces the characters that a page cannot hold."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def shorten(text: str, length: int) -> str:
    """Puts a name on one line, and leaves out the middle of a long one."""
    text = " ".join(printable(text).split())
    if len(text) <= length:
        return text
    end = (length - 1) // 2
    return f"{text[: length - 1 - end]}…{text[-end:]}"


def short_labels(paths: Sequence[str], length: int) -> list[str]:
    """Shortens paths, without what all of them begin and end with.

    >>> from keras_bimp._src.reporting.short_labels import short_labels
    >>> short_labels(["net/a/kernel", "net/block_1_conv/kernel"], 9)
    ['a', 'bloc…conv']
    """
    parts = [path.split("/") for path in paths]
    begin, end = _in_common(parts), _in_common([p[::-1] for p in parts])
    labels = ["/".join(p[begin : len(p) - end] or p) for p in parts]
    return [shorten(label, length) for label in labels]


def _in_common(rows):
    """How many first entries are the same in all rows."""
    columns = zip(*rows, strict=False)
    same = itertools.takewhile(lambda column: len(set(column)) == 1, columns)
    return len(list(same))
