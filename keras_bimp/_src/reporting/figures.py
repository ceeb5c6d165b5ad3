"""The figures of a page, drawn by matplotlib."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from keras_bimp._src.reporting.facts import Report
from keras_bimp._src.reporting.inline_svg import LIGHT
from keras_bimp._src.reporting.inline_svg import add_tooltip
from keras_bimp._src.reporting.inline_svg import inline_svg
from keras_bimp._src.reporting.inline_svg import new_axes
from keras_bimp._src.reporting.numerals import is_known
from keras_bimp._src.reporting.numerals import percent
from keras_bimp._src.reporting.short_labels import short_labels
from keras_bimp._src.reporting.short_labels import shorten

_ROW = 19  # Height of a bar or of a line of text.
_CHARACTER = 7.6  # A common width of one.
_LABELS = 156  # Width of the names of kernels.

# What the callbacks add to a history: no metrics of the model.
_NOT_METRICS = (
    "cycle",
    "d1",
    "d2",
    "discount",
    "learning_rate",
    "norm_drop",
    "sparsity",
)


class Figure(NamedTuple):
    """What stands above, in and below a figure."""

    caption: str
    charts: list[str]
    note: str = ""
    tall: bool = False


def figures(report: Report) -> Iterator[Figure]:
    """Draws the figures that a report has data for, in order."""
    if report.kernels:
        yield Figure(
            "Sparsity per kernel",
            [_bars(report)],
            f"The dashed line is at {percent(report.sparsity)}, the sparsity "
            "of all prunable weights.",
            tall=len(report.kernels) > 60,
        )
    known = {
        name: values
        for name, values in report.history.items()
        if any(map(is_known, values))
    }
    if "learning_rate" in known:
        chart = _lines(known, ["learning_rate"], report.phases, (0, None))
        yield Figure("Learning rate over the epochs", [chart])
    metrics = _metrics(known)
    shares = [name for name in metrics if _is_share(known[name])]
    groups = [shares, *([name] for name in metrics if name not in shares)]
    drawn = [_lines(known, group, report.phases) for group in groups if group]
    if "sparsity" in known:
        drawn.append(
            _lines(
                known, ["sparsity"], report.phases, (0, 1), "{x:.0%}", height=90
            )
        )
    if drawn:
        both = "Metrics and sparsity" if metrics else "Sparsity"
        yield Figure(f"{both} over the epochs", drawn)
    if report.histogram is not None:
        compared = report.histogram.dense_counts is not None
        yield Figure(
            "Weights before and after" if compared else "Weights",
            [_histogram(report.histogram)],
            "Number of weights in the kernels per value, without the zeros.",
        )


def _metrics(history):
    """Names of the metrics, those of the validation if there was one."""
    validated = [f"val_{n}" for n in history if f"val_{n}" in history]
    names = validated or [
        name
        for name in history
        if name not in _NOT_METRICS and not name.endswith("_pruning")
    ]
    # Losses are shown where there is nothing else.
    return [name for name in names if not name.endswith("loss")] or names


def _is_share(values):
    return all(0 <= value <= 1 for value in values if is_known(value))


def _bars(report):
    """Draws the sparsity of each kernel."""
    rows = range(len(report.kernels))
    height = _ROW * len(rows)
    axes = new_axes(height, top=_ROW, bottom=6, left=_LABELS, right=54)
    shares = [kernel.sparsity for kernel in report.kernels]
    axes.barh(rows, shares, height=0.7, color=LIGHT["blue"])
    dashed = {"linewidth": 1, "linestyle": (0, (3, 3))}
    axes.axvline(report.sparsity, color=LIGHT["ink"], **dashed)
    axes.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
    axes.xaxis.tick_top()
    paths = [kernel.path for kernel in report.kernels]
    labels = short_labels(paths, int(_LABELS / _CHARACTER))
    axes.set_yticks(rows, labels, color=LIGHT["ink"])
    axes.grid(axis="x")
    # All of a row, with its label, has a tooltip.
    places = axes.barh(rows, 3, left=-1.5, height=1, alpha=0)
    for row, kernel in enumerate(report.kernels):
        share = percent(kernel.sparsity)
        _annotate(axes, share, (1, row), (53, 0), "right", "center_baseline")
        add_tooltip(places[row], f"{kernel.path}: {share}")
    axes.set_xlim(0, 1)
    axes.set_ylim(len(shares) - 0.5, -0.5)
    return inline_svg(
        axes, "Sparsity of each kernel; the table of kernels has the numbers"
    )


def _lines(
    history, names, phases, limits=(None, None), write="{x:.6g}", height=140
):
    """Draws numbers over the epochs, with the phases behind them."""
    axes = new_axes(height, top=_ROW * (len(names) + bool(phases)) + 6)
    top = 1 + _ROW / height * bool(phases)
    epochs = max([len(history[n]) for n in names] + [p.end for p in phases])
    for name in names:
        known = [v if is_known(v) else np.nan for v in history[name]]
        # One between gaps is a line of no length: its round end is a dot.
        gaps = np.pad(np.isnan(known), 1, constant_values=True)
        points = np.repeat(np.arange(len(known)), 1 + (gaps[:-2] & gaps[2:]))
        # Epochs are counted from 1 here.
        axes.plot(points + 1, np.array(known)[points], label=shorten(name, 38))
    for i, phase in enumerate(phases):
        colour = LIGHT["band-even" if i % 2 else "band"]
        begin, end = phase.start + 0.5, phase.end + 0.5
        band = axes.axvspan(
            begin, end, 0, top, color=colour, linewidth=0, zorder=0
        )
        add_tooltip(band, phase.name)
        room = (end - begin) / epochs * 290 / _CHARACTER
        for label in (phase.name, phase.name.split(" ")[-1]):
            if len(label) <= room:
                _annotate(
                    axes,
                    shorten(label, 38),
                    ((begin + end) / 2, top),
                    (0, -3),
                    "center",
                    "top",
                    color=LIGHT["soft"],
                    xycoords=axes.get_xaxis_transform(),
                )
                break
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.get_major_locator().set_params(nbins=5)
    axes.yaxis.set_major_formatter(write)
    axes.set_xlim(0.5, epochs + 0.5)
    axes.set_ylim(*limits)
    return _with_words(
        axes, top, "epoch", f"{', '.join(names)} over the epochs"
    )


def _histogram(facts):
    """Draws how weights are distributed: the dense ones outlined."""
    from matplotlib.ticker import EngFormatter

    axes = new_axes(150, top=_ROW * 2 + 6)
    kinds = {
        "weights that are left": (facts.counts, "blue", True),
        "weights of the dense model": (facts.dense_counts, "orange", False),
    }
    for label, (counts, colour, fill) in kinds.items():
        if counts is not None:
            axes.stairs(
                counts,
                facts.edges,
                alpha=0.75 if fill else 1,
                color=LIGHT[colour],
                fill=fill,
                label=label,
            )
    axes.set_xlim(facts.edges[0], facts.edges[-1])
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.get_major_locator().set_params(nbins=5)
    return _with_words(
        axes, 1, "value of a weight", "How many weights per value"
    )


def _annotate(axes, text, place, offset, ha, va, **kwargs):
    kwargs.update(textcoords="offset points", ha=ha, va=va)
    axes.annotate(text, place, offset, **kwargs)


def _with_words(axes, top, below, title):
    axes.set_xlabel(below, loc="right")
    axes.grid(axis="y")
    axes.legend(
        bbox_to_anchor=(0, top),
        borderaxespad=0,
        borderpad=0.3,
        # Of all of them: a name may begin with an underscore.
        handles=[*(axes.get_lines() or axes.patches)],
        loc="lower left",
    )
    return inline_svg(axes, title)
