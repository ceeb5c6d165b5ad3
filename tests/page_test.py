import dataclasses
import html
import html.parser
import math
import re
import shutil
import struct
import subprocess
import zlib

import pytest
from helpers import lines_with

from keras_bimp._src.reporting.facts import Histogram
from keras_bimp._src.reporting.facts import KernelFacts
from keras_bimp._src.reporting.facts import Phase
from keras_bimp._src.reporting.facts import Report
from keras_bimp._src.reporting.facts import SizeFacts
from keras_bimp._src.reporting.facts import TimeFacts
from keras_bimp._src.reporting.facts import Verdict
from keras_bimp._src.reporting.page import page

pytestmark = pytest.mark.slow

VOID = {"meta", "wbr"}
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style><svg onload=alert(1)>&lt;&amp;",
    "\x00\ud800 ' onclick='alert(1)",
)

MINIMUM = Report(
    name="tiny",
    made_with="keras_bimp",
    status="unknown",
    state="No training.",
    parameters=0,
    kernels=(),
    sparsity=0.0,
    total_sparsity=0.0,
    dense_macs=None,
    macs=None,
)


def sample(kernels=4):
    return Report(
        name="resnet",
        made_with="keras_bimp 0.1.0, Keras 3.12.0 on tensorflow",
        status="incomplete",
        state="Incomplete: 5 of 6 epochs are done.",
        parameters=1234567,
        kernels=tuple(
            KernelFacts(
                path=f"resnet/stage{i}_block{i}_conv/kernel",
                layer="Conv2D",
                shape=(3, 3, 16, 41 + i),
                left=1321 + i,
                dense_macs=7654321 + i,
                macs=None if i == 1 else 543210 + i,
                status="pruned" if i else "excluded by name",
            )
            for i in range(kernels)
        ),
        sparsity=0.9,
        total_sparsity=0.875,
        dense_macs=40123456,
        macs=5012345,
        not_counted=(("lambda_7", "what it computes is not known"),),
        sizes=(
            SizeFacts(".keras", 4123456, 712345, 4123457, 3812345),
            SizeFacts("SavedModel", 5123456, 912345),
        ),
        times=(
            TimeFacts(
                1,
                (0.0123, 0.0121, 0.0131),
                (0.0124, 0.0122, 0.0132),
                (1.008, 0.981, 1.034),
            ),
            TimeFacts(32, (1.2345, 1.2111, 1.2999)),
        ),
        metrics={"loss": (math.nan, 0.25), "accuracy": (0.9312, 0.9345)},
        verdicts=(Verdict("Phones", "They multiply the zeros."),),
        history={
            "accuracy": [0.1, 0.2, 0.3, 0.4, 0.5],
            "val_accuracy": [0.5, None, 0.6, math.nan, 0.8],
            "loss": [3.0, 2.0, 1.0, math.inf, 0.5],
            "learning_rate": [0.1, 0.05, 0.0, 0.1, 0.05],
            "sparsity": [0.0, 0.0, 0.5, 0.5, 0.9],
            "cycle": [0, 0, 1, 1, 2],
        },
        phases=(
            Phase("dense", 0, 2),
            Phase("cycle 1", 2, 4),
            Phase("cycle 2", 4, 6),
        ),
        histogram=Histogram((-0.2, -0.1, 0.0, 0.1), (5, 0, 7), (5, 90, 80)),
        missing=(("Times on the GPU", "there is none"),),
    )


def hostile(text):
    found = sample()
    kernel = dataclasses.replace(
        found.kernels[0], path=text, layer=text, status=text
    )
    return dataclasses.replace(
        found,
        name=text,
        made_with=text,
        status="failed",
        state=text,
        kernels=(kernel, *found.kernels),
        not_counted=((text, text),),
        sizes=(SizeFacts(text, 1, 1),),
        metrics={text: (0.5, 0.5)},
        verdicts=(Verdict(text, text),),
        history={text: [0.5, 0.6]},
        phases=(Phase(text, 0, 2),),
        missing=((text, text),),
    )


REPORTS = {
    "sample": sample(),
    "minimum": MINIMUM,
    "many kernels": sample(60),
    **{f"hostile {i}": hostile(text) for i, text in enumerate(HOSTILE)},
}


class Parsed(html.parser.HTMLParser):
    """The contents of a page; raises if its tags are not balanced."""

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.elements = []  # Pairs of a tag and its attributes.
        self.texts = []  # Pairs of the tags around a text, and the text.
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((tuple(self.open), data))

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    def cells(self):
        """Returns the texts of the cells of all tables."""
        return [
            text for tags, text in self.texts if {"td", "th"} & set(tags[-1:])
        ]


@pytest.mark.parametrize("name", REPORTS)
def test_page_is_sound(name):
    text = page(REPORTS[name])
    text.encode()
    found = Parsed(text)
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    assert len(found.all("title")) == 1 + len(found.all("svg")) + len(
        found.all("g")
    )
    headings = [tag for tag, _ in found.elements if re.fullmatch("h[1-6]", tag)]
    assert headings == ["h1"] + ["h2"] * (len(headings) - 1)
    assert all(attrs["scope"] in ("col", "row") for attrs in found.all("th"))
    assert all(attrs["role"] == "img" for attrs in found.all("svg"))
    for _, attrs in found.elements:
        assert not re.search(r"\b(nan|inf)\b", " ".join(attrs.values()))


@pytest.mark.parametrize("name", REPORTS)
def test_page_refers_to_nothing(name):
    text = page(REPORTS[name])
    found = Parsed(text)
    loading = {"script", "img", "link", "iframe", "object", "a", "image", "use"}
    assert not loading & {tag for tag, _ in found.elements}
    for _, attrs in found.elements:
        assert not [n for n in attrs if re.match("on|src|href|style", n)]
    assert not re.search(r"://|@import|url\(", text)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text(name):
    shown = re.sub("[\x00\ud800]", "\ufffd", name)
    found = Parsed(page(hostile(name)))
    for tags in (("header", "h1"), ("header", "p"), ("dl", "div", "dt")):
        assert any(
            text == shown and around[-len(tags) :] == tags
            for around, text in found.texts
        )
    whole = "".join(text for _, text in found.texts)
    assert whole.count(shown) >= 15


def test_tables_hold_every_number():
    report = sample()
    cells = Parsed(page(report)).cells()
    whole = page(report).replace("<wbr>", "")
    for kernel in report.kernels:
        assert f'row" class="word">{kernel.path}</th>' in whole
        assert " × ".join(map(str, kernel.shape)) in cells  # noqa: RUF001
        numbers = (kernel.size, kernel.left, kernel.dense_macs)
        for number in (*numbers, kernel.macs or 543210):
            assert f"{number:,}" in cells
        assert f"{kernel.sparsity:.2%}" in cells
        assert kernel.status in cells
    size = sum(kernel.size for kernel in report.kernels)
    left = sum(kernel.left for kernel in report.kernels)
    start = cells.index(f"{size:,}")
    assert cells[start : start + 5] == [
        f"{size:,}",
        f"{left:,}",
        f"{1 - left / size:.2%}",
        f"{sum(kernel.dense_macs for kernel in report.kernels):,}",
        "–",  # noqa: RUF001
    ]
    start = cells.index("1,234,567")
    assert cells[start : start + 5] == [
        "1,234,567",
        f"{1234567 - size + left:,}",
        "87.50%",
        "40,123,456",
        "5,012,345",
    ]
    for size in report.sizes:
        start = cells.index(size.format)
        assert (
            cells[start + 1 : start + 5]
            == [
                "–" if number is None else f"{number:,}"  # noqa: RUF001
                for number in dataclasses.astuple(size)[1:]
            ]
        )
    start = cells.index("1")
    assert cells[start : start + 14] == [
        *("1", "12.300", "12.100 – 13.100"),  # noqa: RUF001
        *("12.400", "12.200 – 13.200"),  # noqa: RUF001
        *("1.008", "0.981 – 1.034"),  # noqa: RUF001
        *("32", "1,234.500", "1,211.100 – 1,299.900"),  # noqa: RUF001
        *("–", "–", "–", "–"),  # noqa: RUF001
    ]


def test_columns_without_numbers_are_left_out():
    whole = sample()
    report = dataclasses.replace(
        whole, sizes=whole.sizes[1:], times=whole.times[1:]
    )

    def heads(report, *words):
        cells = Parsed(page(report)).cells()
        return [cell for cell in cells if cell.lower().startswith(words)]

    assert heads(report, "multiply-adds")
    assert heads(whole, "dense", "speed")
    assert not heads(report, "dense", "speed")


def test_tiles_and_words():
    found = Parsed(page(sample()))
    texts = [text for _, text in found.texts]
    for figures in (
        ("87.50%", "1,234,567"),
        ("0.9345", "−0.0033"),  # noqa: RUF001
        ("40.1\xa0M", "5.01\xa0M"),
        ("0.98", "1.03"),
        ("3.81\xa0MB", "5.35×"),  # noqa: RUF001
        # Zeros are counted; no time is measured.
        ("theoretical", "measured", "multiply-adds"),
    ):
        assert any(lines_with(text, *figures) for text in texts), figures
    for text in (
        "90.00%",
        "8.00×",  # noqa: RUF001
        "1.01×",  # noqa: RUF001
        "712\xa0kB",
        # The report's text is shown unchanged.
        "They multiply the zeros.",
        "what it computes is not known",
        "there is none",
        "Made with keras_bimp 0.1.0, Keras 3.12.0 on tensorflow",
    ):
        assert text in texts
    assert {"class": "state incomplete"} in found.all("p")


def test_minimum_leaves_sections_out():
    found = Parsed(page(MINIMUM))
    assert not {"svg", "table", "h2"} & {tag for tag, _ in found.elements}
    assert "0.00%" in [text for _, text in found.texts]


def test_validation_is_preferred_and_losses_come_last():
    def names(history):
        report = dataclasses.replace(MINIMUM, history=history)
        return [
            text
            for tags, text in Parsed(page(report)).texts
            if tags[-2:] == ("svg", "text") and not re.match(r"[\d−]", text)  # noqa: RUF001
        ]

    assert names(sample().history) == [
        *("epoch", "learning_rate"),
        *("epoch", "val_accuracy"),
        *("epoch", "sparsity"),
    ]
    assert names({"loss": [1.0], "val_loss": [2.0]}) == ["epoch", "val_loss"]
    # Metrics added by the callbacks are not among them.
    added = ["d1", "d2", "discount", "norm_drop", "val_auc_before_pruning"]
    trained = {"auc": [0.5], **{name: [0.5] for name in added}}
    assert names(trained) == ["epoch", "auc"]
    assert names({**trained, "val_auc": [0.5]}) == ["epoch", "val_auc"]
    # A metric that is not a fraction has a separate axis.
    several = {"auc": [0.5], "mae": [3.0], "accuracy": [0.5], "loss": [1.0]}
    assert names(several) == ["epoch", "auc", "accuracy", "epoch", "mae"]
    assert names({"accuracy": [None, math.nan]}) == []


def run_chromium(folder, text, *options):
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.fail(f"There is no browser: none of {', '.join(names)}.")
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--virtual-time-budget=2000",
            "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}",
            *options,
            path.as_uri(),
        ],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    messages = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert messages == []
    return done.stdout


def test_browser_shows_it(tmp_path):
    shot = tmp_path / "shot.png"
    run_chromium(
        tmp_path,
        page(sample()),
        f"--screenshot={shot}",
        "--window-size=1200,2000",
    )
    data = shot.read_bytes()
    assert struct.unpack(">II", data[16:24]) == (1200, 2000)
    pixels, at = b"", 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            pixels += data[at + 8 : at + 8 + length]
        at += length + 12
    # A page of one colour has very few different bytes.
    assert len(set(zlib.decompress(pixels))) > 100


@pytest.mark.parametrize("name", REPORTS)
def test_nothing_overflows_on_a_phone(tmp_path, name):
    # The window cannot be this narrow, a frame can.
    script = """<script>
    const outside = [...document.querySelectorAll("svg text")].filter(text => {
      const box = text.getBoundingClientRect();
      const chart = text.closest("svg").getBoundingClientRect();
      return box.left < chart.left - 1 || box.right > chart.right + 1;
    });
    parent.document.title = [document.documentElement.scrollWidth,
                             outside.map(text => text.textContent)];
    </script>"""
    text = re.sub("<meta http-equiv[^>]*>", "", page(REPORTS[name]))
    inside = html.escape(text.replace("</body>", script + "</body>"))
    stdout = run_chromium(
        tmp_path,
        f'<title></title><iframe width=360 srcdoc="{inside}"></iframe>',
        "--dump-dom",
        "--window-size=800,800",
    )
    title = re.search("<title>(.*?)</title>", stdout).group(1)
    assert title == "360,"
