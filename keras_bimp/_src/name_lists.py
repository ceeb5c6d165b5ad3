"""Short lists of names for messages."""

from collections.abc import Iterable

_SHOWN = 3


def listed(names: Iterable[str], separator: str = ", ") -> str:
    """Return the first three names and the number of the others.

    Args:
        names: The names, or other text.
        separator: Text between them.
    """
    names = list(names)
    text = separator.join(names[:_SHOWN])
    more = len(names) - _SHOWN
    return text if more <= 0 else f"{text} and {more:,} more"
