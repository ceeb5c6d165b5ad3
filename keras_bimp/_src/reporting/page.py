"""The page of a report: one HTML file that needs nothing else."""

from xml.etree import ElementTree

from keras_bimp._src.reporting.facts import Report
from keras_bimp._src.reporting.figures import figures
from keras_bimp._src.reporting.markup import element
from keras_bimp._src.reporting.markup import pairs
from keras_bimp._src.reporting.markup import section
from keras_bimp._src.reporting.markup import table
from keras_bimp._src.reporting.numerals import NONE
from keras_bimp._src.reporting.numerals import TIMES
from keras_bimp._src.reporting.numerals import count
from keras_bimp._src.reporting.numerals import is_known
from keras_bimp._src.reporting.numerals import large
from keras_bimp._src.reporting.numerals import number
from keras_bimp._src.reporting.numerals import percent
from keras_bimp._src.reporting.numerals import ratio
from keras_bimp._src.reporting.numerals import signed
from keras_bimp._src.reporting.style import STYLE


def page(report: Report) -> str:
    """Writes a report as one HTML page.

    The page loads nothing, has no scripts, and shows names as text whatever
    is in them.

    Args:
        report: What to show; what it lacks is left out.

    Returns:
        The text of the file, to be written as UTF-8.
    """
    html = element("html", _head(report), _body(report), lang="en")
    text = ElementTree.tostring(html, encoding="unicode", method="html")
    return f"<!DOCTYPE html>\n{text}\n"


def _head(report):
    return element(
        "head",
        element("meta", charset="utf-8"),
        element(
            "meta",
            name="viewport",
            content="width=device-width, initial-scale=1",
        ),
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'",
        ),
        element("title", f"{report.name}: pruning report"),
        element("style", STYLE),
    )


def _body(report):
    header = element(
        "header",
        element("p", "Pruning report", class_="kicker"),
        element("h1", report.name),
        element(
            "p",
            report.state,
            class_=f"state {report.status}",
        ),
    )
    drawn = element("div", *figures(report), class_="figures")
    main = element(
        "main",
        element("dl", *_tiles(report), class_="tiles"),
        _warning(report),
        section("Figures", drawn) if len(drawn) else None,
        _kernels(report),
        _sizes(report),
        _times(report),
        pairs(
            "Where it is deployed",
            [(verdict.target, verdict.text) for verdict in report.verdicts],
        ),
        pairs("Multiply-adds not counted", report.not_counted),
        pairs("Not measured", report.missing),
    )
    footer = element("footer", element("p", f"Made with {report.made_with}"))
    return element("body", header, main, footer)


def _tiles(report):
    yield _tile(
        "Sparsity of the prunable weights",
        percent(report.sparsity),
        f"{percent(report.total_sparsity)} of all {report.parameters:,} "
        f"parameters{_left_out(report)}",
    )
    for name, (value, dense) in report.metrics.items():
        note = None
        if is_known(dense):
            note = f"dense {number(dense)}"
            if is_known(value):
                note += f", difference {signed(value - dense)}"
        yield _tile(name[:1].upper() + name[1:], number(value), note)
    if report.theoretical_speedup is not None:
        dense, left = large(report.dense_macs), large(report.macs)
        yield _tile(
            "Theoretical speedup",
            ratio(report.theoretical_speedup),
            f"multiply-adds {dense} → {left}",
        )
    for time in report.times:
        if time.speedup is not None:
            median, low, high = time.speedup
            yield _tile(
                f"Measured speedup, batch of {time.batch_size:,}",
                ratio(median),
                f"quartiles {low:.2f} and {high:.2f}",
            )
    for size in report.sizes:
        note = None
        if size.dense_gzipped is not None:
            note = (
                f"dense {large(size.dense_gzipped, 'B')}, "
                f"{ratio(size.dense_gzipped / size.gzipped)} as large"
            )
        yield _tile(
            f"{size.format} file, gzipped", large(size.gzipped, "B"), note
        )


def _left_out(report):
    if not report.left_out:
        return ""
    size = sum(kernel.size for kernel in report.left_out)
    return (
        f", of which {percent(size / report.parameters)} are tables that only "
        "`filters` asks for"
    )


def _tile(label, value, note):
    return element(
        "div",
        element("dt", label),
        element("dd", value, class_="value"),
        element("dd", note, class_="soft") if note else None,
    )


def _warning(report):
    if report.theoretical_speedup is None:
        return None
    return element(
        "p",
        "The theoretical speedup is not measured time: it compares numbers of "
        "multiply-adds. Zeros save time only where the runtime skips them.",
        class_="note soft",
    )


def _kernels(report):
    rows = [
        [
            kernel.path,
            kernel.layer,
            f" {TIMES} ".join(map(str, kernel.shape)),
            *_counts(
                kernel.size,
                kernel.left,
                kernel.sparsity,
                kernel.dense_macs,
                kernel.macs,
            ),
            kernel.status,
        ]
        for kernel in report.kernels
    ]
    headings = [
        "Kernel",
        "Layer",
        "Shape",
        ">Weights",
        ">Left",
        ">Sparsity",
        ">Multiply-adds, dense",
        ">Multiply-adds, left",
        "Status",
    ]
    return table("Kernels", headings, rows, _totals(report))


def _totals(report):
    size = sum(kernel.size for kernel in report.kernels)
    left = sum(kernel.left for kernel in report.kernels)
    zeros = size - left
    in_kernels = _counts(
        size,
        left,
        zeros / size if size else 0.0,
        _sum(kernel.dense_macs for kernel in report.kernels),
        _sum(kernel.macs for kernel in report.kernels),
    )
    in_model = _counts(
        report.parameters,
        report.parameters - zeros,
        report.total_sparsity,
        report.dense_macs,
        report.macs,
    )
    return [
        ["All kernels", "", "", *in_kernels, ""],
        ["Whole model", "", "", *in_model, ""],
    ]


def _counts(size, left, sparsity, dense_macs, macs):
    return (
        count(size),
        count(left),
        percent(sparsity),
        count(dense_macs),
        count(macs),
    )


def _sum(counts):
    counts = list(counts)
    return None if None in counts else sum(counts)


def _sizes(report):
    rows = [
        [
            size.format,
            *map(
                count,
                (size.raw, size.gzipped, size.dense_raw, size.dense_gzipped),
            ),
        ]
        for size in report.sizes
    ]
    headings = [
        "Format",
        ">As written",
        ">Gzipped",
        ">Dense, as written",
        ">Dense, gzipped",
    ]
    return table("File sizes in bytes", headings, rows)


def _times(report):
    rows = [
        [
            f"{time.batch_size:,}",
            *_spread(time.seconds, 1000),
            *_spread(time.dense_seconds, 1000),
            *_spread(time.speedup, 1),
        ]
        for time in report.times
    ]
    headings = [
        "Batch size",
        ">Median",
        ">Quartiles",
        ">Dense, median",
        ">Dense, quartiles",
        ">Speedup, median",
        ">Speedup, quartiles",
    ]
    return table("Measured times in milliseconds per batch", headings, rows)


def _spread(spread, scale):
    if spread is None:
        return NONE, NONE
    median, low, high = (f"{scale * value:,.3f}" for value in spread)
    return median, f"{low} {NONE} {high}"
