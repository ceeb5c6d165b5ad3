"""Shorten errors of other libraries for our messages."""

import re

# Maximum number of characters of another library's error.
_LONGEST = 300

# Text that does not help users: terminal colours, names of functions that
# TensorFlow generated, positions in its graph, and what Keras appends to the
# error of a layer.
_NOISE = (
    r"\x1b\[[0-9;]*[A-Za-z]",
    r"\{\{[^{}]*\}\}",
    r"\[Op:[^\]]*\]( name:[ \t]*\S*)?",
    r"(?m)^(<unknown>:0: (error|note): )?loc\(.*$",
    r"(?s)\bArguments received by \S+:.*",
    r"(?s)\bDetected at node .*? defined at \(most recent call last\):",
    r"<stack traces unavailable>|\[\[\s*\]\]",
    r"(?s)\bTraceback \(most recent call last\):.*?\n(?=\S)",
    r"(?m)^ +File \".*\", line \d+.*$",
)


def told(error: Exception | str) -> str:
    """Return the message of another library's error as one line.

    Removes escape codes, tracebacks, compiler dumps and argument lists, and
    truncates long messages.

    Args:
        error: The error, or its text.
    """
    text = str(error)
    for noise in _NOISE:
        text = re.sub(noise, " ", text)
    text = " ".join(text.split())
    if not text:
        return type(error).__name__ if isinstance(error, Exception) else ""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
