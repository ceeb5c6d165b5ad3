"""The documentation is built as a site, which needs nothing from elsewhere."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import public_surface
import pytest
from build_files import ROOT


class Loaded(HTMLParser):
    """Collects what a browser loads with a page, and where names are."""

    # Attributes with addresses; a link is loaded only if someone follows it.
    LOADS = ("src", "srcset", "poster", "data", "action")
    SHEETS = frozenset(("stylesheet", "icon", "preload", "preconnect"))

    def __init__(self, text):
        super().__init__()
        self.addresses, self.ids, self.style = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids.append(found.get("id"))
        self.addresses += [found[k] for k in self.LOADS if found.get(k)]
        if tag == "link" and self.SHEETS & set(found["rel"].split()):
            self.addresses.append(found["href"])
        self.style += found.get("style") or ""

    def handle_data(self, data):
        if self.lasttag == "style":
            self.style += data


def sheet_addresses(text):
    return re.findall(r"(?:url\(|@import )[\s\"']*([^\"')\s;]+)", text)


def elsewhere(addresses):
    return [a for a in addresses if re.match(r"(https?:)?//", a)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "build_site.py", folder],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site):
    pages = {path: Loaded(path.read_text()) for path in site.rglob("*.html")}
    assert len(pages) > 20
    for path, page in pages.items():
        found = [*page.addresses, *sheet_addresses(page.style)]
        assert found, path
        assert not elsewhere(found), path
    for path in site.rglob("*.css"):
        assert not elsewhere(sheet_addresses(path.read_text())), path


@pytest.mark.slow
def test_every_public_name_has_its_place(site):
    pages = [*(site / "api").glob("*.html")]
    ids = [i for page in pages for i in Loaded(page.read_text()).ids if i]
    for name, _ in public_surface.objects():
        assert ids.count(name) == 1, name


@pytest.mark.slow
def test_docstrings_become_sections(site):
    text = (site / "api" / "selection.html").read_text()
    (entry,) = re.findall(
        r'<h2 id="keras_bimp.select".*?(?=<h2 )', text, re.DOTALL
    )
    plain = re.sub(r"<[^>]+>", "", entry)
    for title in ("Parameters", "Returns", "Raises", "Examples", "Reference"):
        assert re.search(rf"^\s*{title}:?$", plain, re.MULTILINE), title
    # An example is code, not text.
    assert "&gt;&gt;&gt;" not in "".join(re.findall("<p>.*?</p>", entry))


def test_what_is_loaded_from_elsewhere_is_found():
    page = Loaded(
        '<link rel="stylesheet" href="https://cdn.example/a.css">'
        '<script src="//cdn.example/b.js"></script><a href="https://c">c</a>'
        "<style>@import 'https://d/d.css'; a {background: url(e.png)}</style>"
    )
    found = [*page.addresses, *sheet_addresses(page.style)]
    assert elsewhere(found) == [
        "https://cdn.example/a.css",
        "//cdn.example/b.js",
        "https://d/d.css",
    ]


@pytest.mark.parametrize(
    ("source", "target", "link", "moved"),
    [
        ("README.md", "index.md", "docs/a.md#b", "a.md#b"),
        ("README.md", "index.md", "CHANGELOG.md", "changelog.md"),
        ("docs/a.md", "a.md", "../README.md", "index.md"),
        ("docs/a.md", "a.md", "../examples/serve.md", "serve.md"),
        ("docs/a.md", "a.md", "api/b.md", "api/b.md"),
        ("docs/a.md", "a.md", "#b", "#b"),
        ("docs/a.md", "a.md", "https://x.org/docs/a", "https://x.org/docs/a"),
        ("docs/api/b.md", "api/b.md", "../a.md#c", "../a.md#c"),
        ("docs/api/b.md", "api/b.md", "../../README.md", "../index.md"),
    ],
)
def test_links_follow_their_pages(source, target, link, moved):
    path = ROOT / "docs" / "site_pages.py"
    spec = importlib.util.spec_from_file_location("site_pages", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.moved(f"A [link]({link}).", source, target)
    assert text == f"A [link]({moved})."
