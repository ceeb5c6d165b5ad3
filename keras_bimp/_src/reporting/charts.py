"""Charts as SVG elements, drawn 360 wide, which is a phone's width.

Colours, fonts and line styles are left to the style sheet of the page: it knows
whether it is dark and how wide the charts come out.
"""

import itertools
import math
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from xml.etree import ElementTree

from keras_bimp._src.reporting.facts import Histogram
from keras_bimp._src.reporting.facts import Phase
from keras_bimp._src.reporting.markup import element
from keras_bimp._src.reporting.numerals import NONE
from keras_bimp._src.reporting.numerals import compact
from keras_bimp._src.reporting.numerals import is_known
from keras_bimp._src.reporting.numerals import percent

_WIDTH = 360
_LEFT = 50  # Right of the labels of the vertical axis.
_RIGHT = _WIDTH - 14
_ROW = 19  # Height of a line of text or a bar.
_CHARACTER = 7.6  # A common width of one in a wide font, on a phone.
_LABELS = 160  # Width of the labels of the bars.
_BARS_END = _WIDTH - 50


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers, about `count`, that `low` and `high` lie between.

    >>> from keras_bimp._src.reporting.charts import ticks
    >>> ticks(0.0, 0.93)
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-200):
        around = abs(low) / 10 or 1.0
        low, high = low - around, high + around
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min(
        m for m in (1, 2, 2.5, 5, 10) if m * power >= 0.999 * rough
    )
    first = math.floor(low / step + 1e-6)
    last = math.ceil(high / step - 1e-6)
    return [i * step for i in range(first, last + 1)]


def short_labels(paths: Sequence[str], length: int) -> list[str]:
    """Leaves out what all paths begin and end with, and long ones' middles.

    >>> from keras_bimp._src.reporting.charts import short_labels
    >>> short_labels(["net/a/kernel", "net/block_1_conv/kernel"], 9)
    ['a', 'bloc…conv']
    """
    parts = [path.split("/") for path in paths]
    begin, end = _in_common(parts), _in_common([p[::-1] for p in parts])
    labels = ["/".join(p[begin : len(p) - end] or p) for p in parts]
    return [_shorten(label, length) for label in labels]


def bars(
    title: str, shares: Sequence[tuple[str, float]], mark: float
) -> ElementTree.Element:
    """Draws a horizontal bar for each share.

    Args:
        title: What the chart shows, for those who cannot see it.
        shares: Pairs of a path and a share in [0, 1].
        mark: The share that a line is drawn at.
    """
    bottom = _ROW * (len(shares) + 1)
    chart = _svg(title, bottom + 4, "bars")

    def x(share):
        return _LABELS + share * (_BARS_END - _LABELS)

    for share in (0.0, 0.5, 1.0):
        chart.append(_text(f"{share:.0%}", x(share), 10, "middle"))
        chart.append(_line(x(share), _ROW - 4, x(share), bottom, "grid"))
    length = int((_LABELS - 6) / _CHARACTER)
    labels = short_labels([path for path, _ in shares], length)
    for i, ((path, share), label) in enumerate(
        zip(shares, labels, strict=True)
    ):
        y = _ROW * (i + 1)
        known = is_known(share)
        value = percent(share) if known else NONE
        row = element("g", element("title", f"{path}: {value}"))
        row.append(_text(label, _LABELS - 6, y + 13, "end", "label"))
        if known:
            row.append(
                element(
                    "rect",
                    class_="bar",
                    x=_LABELS,
                    y=y + 3,
                    width=x(min(max(share, 0.0), 1.0)) - _LABELS,
                    height=_ROW - 6,
                )
            )
        row.append(_text(value, _WIDTH - 1, y + 13, "end", "value"))
        chart.append(row)
    chart.append(_line(x(mark), _ROW - 4, x(mark), bottom, "mark"))
    return chart


def lines(
    title: str,
    series: Mapping[str, Sequence[float | None]],
    phases: Iterable[Phase] = (),
    *,
    include: Iterable[float] = (),
    write: Callable[[float], str] = compact,
    height: int = 130,
) -> ElementTree.Element:
    """Draws one or more series over the epochs, with the phases behind them.

    A value that is missing or not finite leaves a gap.

    Args:
        title: What the chart shows, for those who cannot see it.
        series: Name -> one number per epoch.
        phases: Of the training.
        include: Values that the vertical axis has in any case.
        write: Writes the value at a tick.
        height: Of the part between the axes.
    """
    phases = tuple(phases)
    top = 4 + _ROW * len(series)
    plot_top = top + _ROW if phases else top
    bottom = plot_top + height
    chart = _svg(title, bottom + 32, "lines")
    values = [v for s in series.values() for v in s if is_known(v)]
    levels = ticks(min([*values, *include]), max([*values, *include]))
    epochs = max([len(s) for s in series.values()] + [p.end for p in phases])

    def x(epoch):  # They are counted from 1 here; 1 reaches from 0.5 to 1.5.
        return _LEFT + (epoch - 0.5) / epochs * (_RIGHT - _LEFT)

    def y(value):
        share = (value - levels[0]) / (levels[-1] - levels[0])
        return bottom - share * height

    _add_bands(chart, phases, x, top, bottom)
    _add_levels(chart, levels, y, write)
    for tick in ticks(1, epochs):
        if 1 <= tick <= epochs and abs(tick - round(tick)) < 1e-6:
            chart.append(_text(f"{tick:.0f}", x(tick), bottom + 14, "middle"))
    chart.append(_text("epoch", _RIGHT, bottom + 28, "end"))
    for i, (name, numbers) in enumerate(series.items()):
        style = f"line s{i % 4 + 1}"
        _add_legend(chart, i, style, name)
        points = [
            (x(epoch), y(v)) if is_known(v) else None
            for epoch, v in enumerate(numbers, start=1)
        ]
        chart.append(element("path", class_=style, d=_path(points)))
    return chart


def histogram(title: str, facts: Histogram) -> ElementTree.Element:
    """Draws how weights are distributed: the dense ones outlined.

    Args:
        title: What the chart shows, for those who cannot see it.
        facts: Edges and counts.
    """
    kinds = {"weights that are left": ("filled", facts.counts)}
    if facts.dense_counts is not None:
        kinds["weights of the dense model"] = ("outline", facts.dense_counts)
    top = 6 + _ROW * len(kinds)
    bottom = top + 150
    chart = _svg(title, bottom + 32, "histogram")
    low, high = facts.edges[0], facts.edges[-1]
    levels = ticks(0, max(max(counts) for _, counts in kinds.values()) or 1)

    def x(weight):
        return _LEFT + (weight - low) / (high - low) * (_RIGHT - _LEFT)

    def y(count):
        return bottom - count / levels[-1] * (bottom - top)

    _add_levels(chart, levels, y, compact)
    for tick in ticks(low, high):
        if low <= tick <= high:
            chart.append(_text(compact(tick), x(tick), bottom + 14, "middle"))
    chart.append(_text("value of a weight", _RIGHT, bottom + 28, "end"))
    for i, (name, (style, counts)) in enumerate(kinds.items()):
        steps = [(x(low), bottom)]
        for j, count in enumerate(counts):
            steps += [(x(edge), y(count)) for edge in facts.edges[j : j + 2]]
        steps.append((x(high), bottom))
        _add_legend(chart, i, style, name)
        chart.append(element("path", class_=style, d=_path(steps)))
    return chart


def _in_common(rows):
    """How many first entries are the same in all rows."""
    columns = zip(*rows, strict=False)
    same = itertools.takewhile(lambda column: len(set(column)) == 1, columns)
    return len(list(same))


def _shorten(text, length):
    if len(text) <= length:
        return text
    end = (length - 1) // 2
    return f"{text[: length - 1 - end]}…{text[-end:]}"


def _svg(title, height, class_):
    return element(
        "svg",
        element("title", title),
        class_=class_,
        role="img",
        viewBox=f"0 0 {_WIDTH} {height}",
    )


def _text(text, x, y, anchor, class_="tick"):
    return element("text", text, class_=class_, x=x, y=y, text_anchor=anchor)


def _line(x1, y1, x2, y2, class_):
    return element("line", class_=class_, x1=x1, y1=y1, x2=x2, y2=y2)


def _path(points):
    """Joins points by straight lines; a `None` between them is a gap."""
    drawn, pen = [], "M"
    for i, point in enumerate(points):
        if point is None:
            pen = "M"
            continue
        drawn.append(f"{pen}{point[0]:.2f} {point[1]:.2f}")
        alone = points[i + 1 : i + 2] in ([], [None])
        if pen == "M" and alone:
            drawn.append("h0")  # Its round end shows as a dot.
        pen = "L"
    return " ".join(drawn)


def _add_bands(chart, phases, x, top, bottom):
    for i, phase in enumerate(phases):
        begin, end = x(phase.start + 0.5), x(phase.end + 0.5)
        band = element("g", element("title", phase.name))
        band.append(
            element(
                "rect",
                class_="band even" if i % 2 else "band",
                x=begin,
                y=top,
                width=end - begin,
                height=bottom - top,
            )
        )
        for label in (phase.name, phase.name.split(" ")[-1]):
            if len(label) * _CHARACTER <= end - begin:
                middle = (begin + end) / 2
                band.append(_text(label, middle, top + 13, "middle"))
                break
        chart.append(band)


def _add_levels(chart, levels, y, write):
    for level in levels:
        chart.append(_line(_LEFT, y(level), _RIGHT, y(level), "grid"))
        chart.append(_text(write(level), _LEFT - 5, y(level) + 4, "end"))


def _add_legend(chart, row, style, name):
    y = 10 + _ROW * row
    sample = element("path", class_=style, d=f"M{_LEFT} {y}h22")
    if style in ("filled", "outline"):
        sample.set("d", f"M{_LEFT} {y - 5}h22v10h-22z")
    chart.append(sample)
    x = _LEFT + 28
    label = _shorten(name, int((_WIDTH - x) / _CHARACTER))
    chart.append(_text(label, x, y + 4, "start", "label"))
