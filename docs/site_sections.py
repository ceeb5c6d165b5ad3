"""Gives the sections of docstrings the form that the site's parser knows.

In Google's form, what belongs to a section is indented. In that of Keras,
which this package has, examples and references are not.
"""

import re

import griffe

OPEN = re.compile(
    r"^(Examples?|References?|Sources?):\n\n(.+?)(?=\n\n\w+:\n|\Z)",
    re.MULTILINE | re.DOTALL,
)


class Sections(griffe.Extension):
    """Indents examples, references and sources."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """Changes the docstring of an object, if it has one."""
        if obj.docstring:
            obj.docstring.value = OPEN.sub(_indent, obj.docstring.value)


def _indent(section):
    title, text = section.groups()
    if title == "Example":
        title = "Examples"  # A section; the singular would be a remark.
    lines = "".join(f"    {line}".rstrip() + "\n" for line in text.split("\n"))
    return f"{title}:\n{lines}".rstrip()
