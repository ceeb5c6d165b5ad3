"""What other libraries say in their errors, in words for ours."""

import re

# Characters of an error of somebody else.
_LONGEST = 300

# What says nothing to a user: colours of a terminal, names of the functions
# that TensorFlow made, where in its own graph something is, and what Keras
# appends to the error of a layer.
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
    """What an error of another library says, in one line.

    Without escape codes, tracebacks, dumps of a compiler and lists of
    arguments, and cut where it is long.

    Args:
        error: The error, or what it says.
    """
    text = str(error)
    for noise in _NOISE:
        text = re.sub(noise, " ", text)
    text = " ".join(text.split())
    if not text:
        return type(error).__name__ if isinstance(error, Exception) else ""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
