"""Takes the pages that lie outside of docs/ into the site (see mkdocs.yml).

Links in this repository are relative to the file that they stand in, as a code
host shows them. In the site, some of those files have another place.
"""

import pathlib
import posixpath
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/serve.md": "serve.md",
}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:)([^)#\s]+)")


def on_files(files, config):
    """Adds the pages."""
    for source, target in OUTSIDE.items():
        files.append(
            File.generated(config, target, abs_src_path=str(ROOT / source))
        )
    return files


def on_page_markdown(markdown, page, **_):
    """Makes links lead to where things are in the site."""
    at = page.file.src_uri
    sources = {target: source for source, target in OUTSIDE.items()}
    return moved(markdown, sources.get(at, f"docs/{at}"), at)


def moved(markdown: str, source: str, target: str) -> str:
    """A page of the repository, with links as its place in the site needs.

    Args:
        markdown: The text of the page.
        source: Its path in the repository.
        target: Its path in the site, as that of a source: `"index.md"`.

    Returns:
        The text.
    """

    def move(link):
        path = posixpath.join(posixpath.dirname(source), link[1])
        path = posixpath.normpath(path)
        path = OUTSIDE.get(path, path.removeprefix("docs/"))
        return posixpath.relpath(path, posixpath.dirname(target) or ".")

    return LINK.sub(move, markdown)
