"""The Python blocks of Markdown pages, and how to run them."""

import re
from dataclasses import dataclass

NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
JOB = re.compile(r"<!-- job: (.+) -->")


@dataclass(frozen=True)
class Block:
    """A block that begins with a line "```python".

    Args:
        line: Integer >= 1, the line of the page where its code begins.
        code: The code.
        not_run: Why it is not run, or `None`, from a comment on the line above,
            which is not visible in the rendered page.
        job: The job of `jobs.JOBS` in which it runs, from such a comment.
    """

    line: int
    code: str
    not_run: str | None = None
    job: str = "tensorflow"


def python_blocks(text: str) -> list[Block]:
    """Returns the blocks of a page, in order."""
    found, begin = [], None
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if begin is None:
            if line == "```python":
                begin = number + 1
        elif line == "```":
            code = "\n".join(lines[begin:number])
            above = lines[begin - 2] if begin > 1 else ""
            found.append(Block(begin + 1, code, **_said(above)))
            begin = None
    if begin is not None:
        raise ValueError(f"A block has no end. Received: line {begin}")
    return found


def run(block: Block, page: str, namespace: dict) -> None:
    """Runs a block; an error shows the line of the page."""
    padding = "\n" * (block.line - 1)
    exec(compile(padding + block.code, page, "exec"), namespace)


def _said(line):
    said = {}
    if match := NOT_RUN.fullmatch(line):
        said["not_run"] = match[1]
    if match := JOB.fullmatch(line):
        said["job"] = match[1]
    return said
