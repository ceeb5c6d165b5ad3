import math
import re

import pytest
from helpers import lines_with

from keras_bimp._src.reporting import charts
from keras_bimp._src.reporting.facts import Phase


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf])
def test_missing_values_are_gaps(missing):
    chart = charts.lines("Chart", {"a": [missing, 1.0, 2.0, missing, 3.0]})
    _, drawn = chart.findall("path")
    first, second = re.findall("M[^M]*", drawn.get("d"))
    assert first.count("L") == 1
    assert second.endswith("h0")  # A dot.
    assert len(chart.findall("line")) == len(charts.ticks(1.0, 3.0))


@pytest.mark.parametrize(
    "values", [[0.0], [0.1, 0.1], [1e-320, 0.0], [-1e299, 1e299], [1e-7, 3e-7]]
)
def test_lines_stay_inside(values):
    chart = charts.lines("Chart", {"a": values}, [Phase("dense", 0, 3)])
    width, height = map(float, chart.get("viewBox").split()[2:])
    _, drawn = chart.findall("path")
    for x, y in re.findall(r"[ML](\S+) ([\d.]+)", drawn.get("d")):
        assert 0 <= float(x) <= width
        assert 0 <= float(y) <= height


def test_bars_are_as_long_as_shares():
    shares = [0.0, 0.25, 1.0, math.nan, 0.5]
    pairs = [(f"net/layer_{i}/kernel", s) for i, s in enumerate(shares)]
    chart = charts.bars("Chart", pairs, 0.5)
    widths = [float(r.get("width")) for r in chart.iter("rect")]
    assert [w / widths[2] for w in widths] == [0.0, 0.25, 1.0, 0.5]
    titles = [row.find("title").text for row in chart.findall("g")]
    assert lines_with(titles[1], "net/layer_1/kernel", "25.00%")
    assert [row.find("text").text for row in chart.findall("g")] == [
        f"layer_{i}" for i in range(5)
    ]


def test_labels():
    assert charts.short_labels(["a/kernel"], 20) == ["a/kernel"]
    assert charts.short_labels(["a/b", "a/b/b"], 20) == ["a/b", "a/b/b"]
    (label,) = charts.short_labels(["x" * 50 + "end"], 9)
    assert label == "xxxx…xend"
