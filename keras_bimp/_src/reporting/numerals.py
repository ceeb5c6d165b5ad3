"""How the numbers of a page are written."""

NONE = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"


def is_known(value) -> bool:
    """Whether it is a number that can be drawn."""
    return value is not None and abs(value) < 1e300  # False for NaN.


def count(value: int | None) -> str:
    """Writes all digits of a number.

    >>> from keras_bimp._src.reporting.numerals import count
    >>> count(1234567)
    '1,234,567'
    """
    return NONE if value is None else f"{value:,}"


def number(value: float | None) -> str:
    """Writes a number with four digits.

    >>> from keras_bimp._src.reporting.numerals import number
    >>> number(0.93456)
    '0.9346'
    """
    if not is_known(value):
        return NONE
    return f"{value:.4g}".replace("-", _MINUS)


def signed(value: float) -> str:
    """Writes a difference.

    >>> from keras_bimp._src.reporting.numerals import signed
    >>> signed(0.0021)
    '+0.0021'
    """
    return f"{value:+.2g}".replace("-", _MINUS)


def percent(share: float) -> str:
    """Writes a share; only what is 0 or all of it is 0.00% or 100.00%.

    >>> from keras_bimp._src.reporting.numerals import percent
    >>> percent(0.9), percent(0.999987), percent(1.0)
    ('90.00%', '99.999%', '100.00%')
    """
    digits = 2
    while digits < 9 and share not in (0, 1):
        if 0 < float(f"{100 * share:.{digits}f}") < 100:
            break
        digits += 1
    return f"{share:.{digits}%}"


def ratio(value: float | None) -> str:
    """Writes how many times as much something is."""
    return NONE if value is None else f"{value:,.2f}{TIMES}"


def large(value: int, unit: str = "") -> str:
    """Writes a large number with three digits.

    >>> from keras_bimp._src.reporting.numerals import large
    >>> large(125485706), large(999999, "B"), large(96)
    ('125\\xa0M', '1.00\\xa0MB', '96')
    """
    if value < 1000:
        return f"{value}{_SPACE}{unit}".strip(_SPACE)
    letters = iter("kMGTPE")
    while value >= 999.5:
        value, letter = value / 1000, next(letters)
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:,.{digits}f}{_SPACE}{letter}{unit}"
