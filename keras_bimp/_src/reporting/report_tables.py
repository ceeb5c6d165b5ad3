"""The tables of a report, on the terminal and on its page."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import NamedTuple

from keras_bimp._src.reporting.facts import Report
from keras_bimp._src.reporting.numerals import NONE
from keras_bimp._src.reporting.numerals import TIMES
from keras_bimp._src.reporting.numerals import count
from keras_bimp._src.reporting.numerals import percent
from keras_bimp._src.reporting.numerals import ratio

# `>` before a heading: the column holds numbers. `|`: a line may end there.
_KERNELS = (
    "Kernel;Layer;Shape;>Weights;>Left;>Sparsity;"
    ">Multiply-|adds, dense;>Multiply-|adds, left;Status"
)
_SIZES = (
    "Format;>As written;>Gzipped;"
    ">Dense, |as written;>Dense, |gzipped;>Ratio, |gzipped"
)
_TIMES = (
    "Batch size;>Median;>Quartiles;>Dense, |median;>Dense, |quartiles;"
    ">Speedup, |median;>Speedup, |quartiles"
)


class Table(NamedTuple):
    """A table whose first column names the rows."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    totals: Sequence[Sequence[str]] = ()


def tables(report: Report) -> list[Table]:
    """The tables that have rows, and of these the columns with an entry."""
    kernels = [
        _kernel(k, k.path, k.layer, TIMES.join(map(str, k.shape)), k.status)
        for k in report.kernels
    ]
    times = "Measured times in milliseconds per batch"
    found = (
        _table("Kernels", _KERNELS, kernels, _totals(report)),
        _table("File sizes in bytes", _SIZES, map(_size, report.sizes)),
        _table(times, _TIMES, map(_time, report.times)),
    )
    return [table for table in found if table.rows]


def _table(title, headings, rows, totals=()):
    rows = list(rows)
    headings = headings.split(";")
    kept = [
        i for i in range(len(headings)) if any(row[i] != NONE for row in rows)
    ]
    headings, *lines = (
        [row[i] for i in kept] for row in (headings, *rows, *totals)
    )
    return Table(title, headings, lines[: len(rows)], lines[len(rows) :])


def _kernel(facts, name, layer="", shape="", status=""):
    return [
        name,
        layer,
        shape,
        count(facts.size),
        count(facts.left),
        percent(facts.sparsity),
        count(facts.dense_macs),
        count(facts.macs),
        status,
    ]


def _totals(report):
    def total(name):
        values = [getattr(kernel, name) for kernel in report.kernels]
        return None if None in values else sum(values)

    kernels = SimpleNamespace(
        **{name: total(name) for name in ("size", "left", "dense_macs", "macs")}
    )
    zeros = kernels.size - kernels.left
    kernels.sparsity = zeros / (kernels.size or 1)
    model = SimpleNamespace(
        size=report.parameters,
        left=report.parameters - zeros,
        sparsity=report.total_sparsity,
        dense_macs=report.dense_macs,
        macs=report.macs,
    )
    return [_kernel(kernels, "All kernels"), _kernel(model, "Whole model")]


def _size(facts):
    counts = (facts.raw, facts.gzipped, facts.dense_raw, facts.dense_gzipped)
    smaller = facts.dense_gzipped and facts.dense_gzipped / facts.gzipped
    return [facts.format, *map(count, counts), ratio(smaller)]


def _time(facts):
    return [
        count(facts.batch_size),
        *_spread(facts.seconds, 1000),
        *_spread(facts.dense_seconds, 1000),
        *_spread(facts.speedup, 1),
    ]


def _spread(spread, scale):
    if spread is None:
        return NONE, NONE
    median, low, high = (f"{scale * value:,.3f}" for value in spread)
    return median, f"{low} {NONE} {high}"
