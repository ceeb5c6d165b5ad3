"""Lists of names in messages, which stay short however many there are."""

from collections.abc import Iterable

_SHOWN = 3


def listed(names: Iterable[str], separator: str = ", ") -> str:
    """The first three names, and how many more there are.

    Args:
        names: The names, or whatever is listed.
        separator: What stands between them.
    """
    names = list(names)
    text = separator.join(names[:_SHOWN])
    more = len(names) - _SHOWN
    return text if more <= 0 else f"{text} and {more:,} more"
