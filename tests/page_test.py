"""The page of a report: what it says, that it is sound, how it looks."""

import dataclasses
import html
import html.parser
import math
import re
import sys
from xml.etree import ElementTree

import matplotlib
import pytest
from chromium import run_chromium
from helpers import dense_model
from helpers import lines_with

import keras_bimp
from keras_bimp._src.reporting import facts
from keras_bimp._src.reporting import page
from keras_bimp._src.reporting import table

VOID = {"meta", "wbr"}
HOSTILE = (
    "_<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style><svg onload=alert(1)>&lt;&amp;",
    "\x00\ud800 ' onclick='alert(1)",
    "$x^2$ \\frac{1} {{ 7 * 7 }} {% raw %}",
    "--> 剪枝\n\t\u202e",
)

SPREAD = (1.2345, 1.2111, 1.2999)
MINIMUM = facts.Report(
    "tiny", "keras_bimp", "unknown", "No training.", 0, (), 0.0, 0.0, None, None
)


def sample(kernels=4):
    def kernel(i):
        path, shape = f"net/stage{i}_block_conv/kernel", (3, 3, 16, 41 + i)
        macs = None if i == 1 else 543210 + i
        status = "pruned" if i else "excluded by name"
        left = 1321 * (i % 4 + 1)
        return facts.KernelFacts(
            path, "Conv2D", shape, left, 7654321 + i, macs, status
        )

    return facts.Report(
        name="net",
        made_with="keras_bimp 0.1.0, Keras 3.12.0 on tensorflow",
        status="incomplete",
        state="Incomplete: 5 of 6 epochs are done.",
        parameters=1234567,
        kernels=tuple(map(kernel, range(kernels))),
        sparsity=0.9,
        total_sparsity=0.875,
        dense_macs=40123456,
        macs=5012345,
        not_counted=(("lambda_7", "what it computes is not known"),),
        sizes=(
            facts.SizeFacts(".keras", 4123456, 712345, 4123457, 3812345),
            facts.SizeFacts("SavedModel", 5123456, 912345),
        ),
        times=(
            facts.TimeFacts(1, SPREAD, SPREAD, (1.008, 0.981, 1.034)),
            facts.TimeFacts(32, SPREAD),
        ),
        metrics={"loss": (math.nan, 0.25), "accuracy": (0.9312, 0.9345)},
        verdicts=(facts.Verdict("Phones", "They multiply the zeros."),),
        history={
            "accuracy": [0.1, 0.2, 0.3, 0.4, 0.5],
            "val_accuracy": [0.5, None, 0.6, math.nan, 0.8],
            "loss": [3.0, 2.0, 1.0, math.inf, 0.5],
            "learning_rate": [0.1, 0.05, 0.0, 0.1, 0.05],
            "sparsity": [0.0, 0.0, 0.5, 0.5, 0.9],
            "cycle": [0, 0, 1, 1, 2],
        },
        phases=(facts.Phase("dense", 0, 2), facts.Phase("cycle 1", 2, 6)),
        histogram=facts.Histogram(
            (-0.2, -0.1, 0.0, 0.1), (5, 0, 7), (5, 90, 80)
        ),
        missing=(("Times on the GPU", "there is none"),),
    )


def hostile(text):
    found = sample()
    kernel = dataclasses.replace(
        found.kernels[0], path=text, layer=text, status=text
    )
    return dataclasses.replace(
        found,
        **dict.fromkeys(("name", "made_with", "state"), text),
        status="failed",
        kernels=(kernel, *found.kernels),
        not_counted=((text, text),),
        sizes=(facts.SizeFacts(text, 1, 1),),
        metrics={text: (0.5, 0.5)},
        verdicts=(facts.Verdict(text, text),),
        history={text: [0.5, 0.6]},
        phases=(facts.Phase(text, 0, 2),),
        missing=((text, text),),
    )


REPORTS = {
    "sample": sample(),
    "minimum": MINIMUM,
    "many kernels": sample(300),
    **{f"hostile {i}": hostile(text) for i, text in enumerate(HOSTILE)},
}
every_report = pytest.mark.parametrize("name", REPORTS)


class Parsed(html.parser.HTMLParser):
    """What a page holds; raises if its tags are not balanced."""

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

    def inside(self, *tags):
        """The texts that are directly in elements of these tags."""
        return [t for around, t in self.texts if around[-len(tags) :] == tags]


def charts(report):
    """The SVG elements of a page."""
    found = re.findall("<svg.*?</svg>", page(report), re.DOTALL)
    return [ElementTree.fromstring(text) for text in found]


def drawn(chart, *words):
    """The paths of a chart, as lists of points, whose style has words."""
    return [
        [
            (step, float(x), float(y))
            for step, x, y in re.findall(r"([ML]) (\S+) (\S+)", path.get("d"))
        ]
        for path in chart.iter("path")
        if all(word in path.get("style", "") for word in words)
    ]


@pytest.mark.slow
@every_report
def test_page_is_sound_and_loads_nothing(name):
    text = page(REPORTS[name])
    assert len(text.encode()) < 400_000
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    found = Parsed(text)
    headings = [tag for tag, _ in found.elements if re.fullmatch("h[1-6]", tag)]
    assert headings == ["h1"] + ["h2"] * (len(headings) - 1)
    loading = {"script", "img", "link", "iframe", "object", "a", "image", "use"}
    assert not loading & {tag for tag, _ in found.elements}
    assert not re.search(r"://|@import|url\(", text)
    ids = [attrs["id"] for _, attrs in found.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in found.elements:
        assert not [n for n in attrs if re.match("on|src|href", n)]
        assert not re.search(r"\b(nan|inf)\b", " ".join(attrs.values()))
        assert tag != "th" or attrs["scope"] in ("col", "row")
        if tag == "svg":
            assert attrs["role"] == "img"
            assert attrs["aria-label"]
        # What has no colour of the page's does not follow a dark one.
        assert not re.search("#|rgb", attrs.get("style", ""))


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text(name):
    shown = re.sub("[\x00\ud800]", "\ufffd", name)
    found = Parsed(page(hostile(name)))
    for tags in (("header", "h1"), ("header", "p"), ("dl", "div", "dt")):
        assert shown in found.inside(*tags)
    whole = "".join(text for _, text in found.texts)
    assert whole.count(shown) >= 11
    # The key of a line.
    line = " ".join(shown.split())
    assert any(
        text == line or re.fullmatch(re.escape(line[:18]) + ".*….*", text)
        for text in found.inside("svg", "g", "g", "g", "g", "text")
    )


def test_tables_hold_every_number():
    report = sample()
    whole = page(report).replace("<wbr>", "")
    found = Parsed(whole)
    cells = [*found.inside("tr", "th"), *found.inside("tr", "td")]
    numbers = [7654321, 40123456, 1234567, 5012345, 30617290, 13210]
    for kernel in report.kernels:
        numbers += [kernel.size, kernel.left]
        assert f'row" class="word">{kernel.path}</th>' in whole
    for size in report.sizes:
        numbers += filter(None, dataclasses.astuple(size)[1:])
    for text in (
        *(f"{number:,}" for number in numbers),
        *(f"{kernel.sparsity:.2%}" for kernel in report.kernels),
        *("3×3×16×41", "excluded by name", "87.50%", "5.35×"),  # noqa: RUF001
        *("1,234.500", "1,211.100 – 1,299.900", "1.008"),  # noqa: RUF001
    ):
        assert text in cells
        assert text in table(report)


def test_columns_without_numbers_are_left_out():
    found = sample()
    for i in range(2):
        sizes, times = found.sizes[i:], found.times[i:]
        report = dataclasses.replace(found, sizes=sizes, times=times)
        heads = "".join(Parsed(page(report)).inside("thead", "tr", "th"))
        assert "Multiply-adds" in heads
        assert [word in heads for word in ("Dense", "Speedup")] == [not i] * 2


def test_key_numbers_and_words():
    found = Parsed(page(sample()))
    texts = [text for _, text in found.texts]
    printed = table(sample())
    for figures in (
        ("87.50%", "1,234,567"),
        ("0.9345", "−0.0033"),  # noqa: RUF001
        ("40.1\xa0M", "5.01\xa0M"),
        ("0.98", "1.03"),
        ("3.81\xa0MB", "5.35×"),  # noqa: RUF001
        # Zeros are counted; no time is measured.
        ("multiply-adds", "measured"),
    ):
        assert any(lines_with(text, *figures) for text in texts), figures
        assert lines_with(printed, *figures), figures
    # What the report says itself is shown as it is.
    said = ("multiply the zeros.", "what it computes is not known", "is none")
    numbers = ("90.00%", "8.00×", "1.01×", "712\xa0kB")  # noqa: RUF001
    for text in (*numbers, *said):
        assert any(text in each for each in texts)
        assert text in printed
    assert "Made with keras_bimp 0.1.0, Keras 3.12.0 on tensorflow" in texts
    assert ("p", {"class": "state incomplete"}) in found.elements


def test_minimum_leaves_sections_out():
    found = Parsed(page(MINIMUM))
    assert not {"svg", "table", "h2"} & {tag for tag, _ in found.elements}
    assert "0.00%" in [text for _, text in found.texts]


def test_validation_is_preferred_and_losses_come_last():
    def names(history):
        drawn = charts(dataclasses.replace(MINIMUM, history=history))
        labels = [chart.get("aria-label") for chart in drawn]
        return [label.removesuffix(" over the epochs") for label in labels]

    first = ["learning_rate", "val_accuracy", "sparsity"]
    assert names(sample().history) == first
    assert names({"loss": [1.0], "val_loss": [2.0]}) == ["val_loss"]
    # What the callbacks add is none.
    added = ["d1", "d2", "discount", "norm_drop", "val_auc_before_pruning"]
    trained = {"auc": [0.5], **{name: [0.5] for name in added}}
    assert names(trained) == ["auc"]
    assert names({**trained, "val_auc": [0.5]}) == ["val_auc"]
    # One that is no share has an axis of its own.
    several = {"auc": [0.5], "mae": [3.0], "accuracy": [0.5], "loss": [1.0]}
    assert names(several) == ["auc, accuracy", "mae"]
    assert names({"accuracy": [None, math.nan]}) == []


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf])
def test_missing_values_are_gaps(missing):
    history = {"a": [missing, 1.0, 2.0, missing, 3.0]}
    (chart,) = charts(dataclasses.replace(MINIMUM, history=history))
    line = max(drawn(chart, "stroke: var(--blue)"), key=len)
    assert [step for step, *_ in line] == ["M", "L", "M", "L"]
    assert line[2][1:] == line[3][1:]  # A dot.
    assert line[0][2] > line[1][2] > line[2][2]


@pytest.mark.parametrize(
    "values", [[0.0], [0.1, 0.1], [1e-320, 0.0], [-1e299, 1e299], [1e-7, 3e-7]]
)
def test_lines_stay_inside(values):
    phases = (facts.Phase("dense", 0, 3),)
    report = dataclasses.replace(MINIMUM, history={"a": values}, phases=phases)
    (chart,) = charts(report)
    width, height = map(float, chart.get("viewBox").split()[2:])
    for line in drawn(chart):
        assert all(0 <= x <= width for _, x, _ in line)
        assert all(0 <= y <= height for *_, y in line)


def test_bars_are_as_long_as_shares():
    report = sample()
    chart = charts(report)[0]
    bars = drawn(chart, "fill: var(--blue)")
    lengths = [bar[1][1] - bar[0][1] for bar in bars]
    (mark,) = drawn(chart, "stroke-dasharray")
    whole = (mark[0][1] - bars[0][0][1]) / 0.9
    assert [length / whole for length in lengths] == pytest.approx(
        [kernel.sparsity for kernel in report.kernels], abs=1e-4
    )
    texts = [element.text for element in chart.iter("text")]
    titles = [element.text for element in chart.iter("title")]
    for i, kernel in enumerate(report.kernels):
        share = f"{kernel.sparsity:.2%}"
        assert {share, f"stage{i}_block_conv"} <= set(texts)
        assert lines_with(titles[i], kernel.path, share)


def test_what_matplotlib_is_set_to_neither_matters_nor_changes(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    first = page(sample())
    ours = {"axes.grid": True, "font.size": 40, "svg.fonttype": "path"}
    with matplotlib.rc_context(ours):
        before = dict(matplotlib.rcParams)
        assert page(sample()) == first
        assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_page_needs_its_packages_before_anything_is_written(
    package, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / "new" / "report.html"
    with pytest.raises(ImportError, match=r"`path`.*keras_bimp\[report\]"):
        keras_bimp.report(dense_model(), path=path)
    assert not path.parent.exists()
    found = keras_bimp.report(dense_model(), latency=False, verbose=0)
    assert table(found)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_charts_are_dark_where_the_browser_is(tmp_path, dark):
    assert run_chromium(tmp_path, page(sample())).startswith("net")
    script = """<script>
    const colour = found => getComputedStyle(document.querySelector(found));
    document.title = [
      colour("svg path[style*='fill: var(--blue)']").fill,
      colour("svg text").fill, colour("body").backgroundColor].join(";");
    </script>"""
    text = re.sub("<meta http-equiv[^>]*>", "", page(sample()))
    title = run_chromium(
        tmp_path,
        text.replace("</body>", script + "</body>"),
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
    )
    bar, words, paper = (
        [int(number) for number in re.findall(r"\d+", colour)]
        for colour in title.split(";")
    )
    assert (sum(paper) < 128) == dark
    for colour in (bar, words):
        assert abs(sum(colour) - sum(paper)) > 250


@pytest.mark.slow
@every_report
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
    title = run_chromium(
        tmp_path,
        f'<title></title><iframe width=360 srcdoc="{inside}"></iframe>',
        "--window-size=800,800",
    )
    assert title == "360,"
