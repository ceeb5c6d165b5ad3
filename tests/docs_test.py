"""Runs the Python blocks of README, CONTRIBUTING and docs/.

The blocks of a page run in order and share their names. Comments in the source
of a page mark blocks that are not run, or that run in a job other than
TensorFlow:

    <!-- not run: needs two machines -->
    <!-- job: jax -->
"""

import pathlib
import re

import code_blocks
import keras
import public_surface as surface
import pytest
from pages import interpret
from pages import prelude

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
# A server is needed for the blocks of the first, and the second has none.
OTHERS = [ROOT / "examples" / "serve.md", ROOT / "CHANGELOG.md"]


def blocks(page):
    return code_blocks.python_blocks(page.read_text())


def runs():
    """Yields each page once per job that its blocks need."""
    for page in PAGES:
        for job in dict.fromkeys(
            block.job for block in blocks(page) if not block.not_run
        ):
            marks = [pytest.mark.job(job)]
            if job != "tensorflow":
                marks.append(pytest.mark.slow)
            yield pytest.param(page, job, marks=marks, id=f"{page.name}-{job}")


@pytest.mark.parametrize(("page", "job"), list(runs()))
def test_blocks_run(page, job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keras.backend.clear_session()  # Resets the names of layers.
    keras.utils.set_random_seed(0)
    if keras.backend.backend() == "tensorflow":
        interpret(monkeypatch)
    namespace = prelude()
    for block in blocks(page):
        if not block.not_run and block.job == job:
            code_blocks.run(block, str(page), namespace)


def test_what_is_added_is_shown_in_few_lines():
    for block in blocks(ROOT / "CONTRIBUTING.md"):
        assert len(block.code.splitlines()) <= 30


def test_few_blocks_are_not_run():
    every = [block for page in PAGES for block in blocks(page)]
    assert len(every) > 30
    assert sum(bool(block.not_run) for block in every) <= 3


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    known = {}
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        other = (page.parent / file) if file else page
        assert other.exists(), target
        if anchor:
            if other not in known:
                known[other] = anchors(other)
            assert anchor in known[other], target


def anchors(page):
    """Returns GitHub's anchors for a page's headings."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", page.read_text(), re.M):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        again, first = 0, anchor
        while anchor in found:
            again += 1
            anchor = f"{first}-{again}"
        found.add(anchor)
    return found


def test_each_public_object_is_on_one_api_page():
    listed = [
        name
        for page in (ROOT / "docs" / "api").glob("*.md")
        for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    ]
    assert sorted(listed) == sorted(path for path, _ in surface.objects())


def test_a_broken_block_is_told_by_its_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Text.\n\n```python\nx = 1\ny = x +\n```\n")
    (block,) = blocks(page)
    with pytest.raises(SyntaxError) as error:
        code_blocks.run(block, str(page), {})
    assert error.value.lineno == 5
    page.write_text("Text.\n\n```python\nx = 1\n1 / 0\n```\n")
    (block,) = blocks(page)
    with pytest.raises(ZeroDivisionError) as error:
        code_blocks.run(block, str(page), {})
    assert error.traceback[-1].lineno + 1 == 5


def test_comments_say_what_is_not_run_and_where_a_block_runs():
    page = """
<!-- not run: two machines -->
```python
first
```

<!-- job: devices -->
```python
second
```

```bash
third
```
"""
    first, second = code_blocks.python_blocks(page)
    assert (first.code, first.not_run) == ("first", "two machines")
    assert first.job == "tensorflow"
    assert (second.code, second.not_run) == ("second", None)
    assert second.job == "devices"
    with pytest.raises(ValueError, match="line 1"):
        code_blocks.python_blocks("```python\nx")
