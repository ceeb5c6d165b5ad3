"""The report as text, for the terminal."""

import io

import rich.box
import rich.console
import rich.table

from keras_bimp._src.name_lists import listed
from keras_bimp._src.reporting.facts import Report
from keras_bimp._src.reporting.numerals import large
from keras_bimp._src.reporting.numerals import percent

_WIDTH = 120


def table(report: Report) -> str:
    """The kernels, their totals, and all else that was measured, as text."""
    parts = [f'Pruning report of "{report.name}"', report.state, ""]
    parts.append(_as_text(_kernels(report)))
    parts += _totals(report)
    if report.sizes:
        parts += ["", _as_text(_sizes(report))]
    if report.times:
        parts += ["", _as_text(_times(report))]
    for verdict in report.verdicts:
        parts.append(f"{verdict.target}: {verdict.text}")
    for what, why in (*report.not_counted, *report.missing):
        parts.append(f"Not in these numbers: {what}: {why}.")
    return "\n".join(parts)


def _kernels(report):
    shown = _table(
        "Layer",
        "Kernel",
        "Shape",
        ">Left",
        ">Sparsity",
        ">Multiply-adds",
        "Status",
    )
    for kernel in report.kernels:
        shown.add_row(
            kernel.layer,
            kernel.path,
            "x".join(map(str, kernel.shape)),
            f"{kernel.left:,}",
            percent(kernel.sparsity),
            _of(kernel.macs, kernel.dense_macs),
            kernel.status,
        )
    return shown


def _totals(report):
    left = sum(kernel.left for kernel in report.kernels)
    size = sum(kernel.size for kernel in report.kernels)
    lines = [
        f"Weights in kernels: {left:,} of {size:,} left, sparsity "
        f"{percent(1 - left / size)}.",
        f"Sparsity of the prunable weights {percent(report.sparsity)}, of all "
        f"{report.parameters:,} parameters {percent(report.total_sparsity)}.",
    ]
    if report.left_out:
        size = sum(kernel.size for kernel in report.left_out)
        lines.append(
            f"Not among the prunable weights: {len(report.left_out)} with "
            f"{percent(size / report.parameters)} of all parameters, which "
            "only `filters` asks for: "
            f"{listed(kernel.path for kernel in report.left_out)}."
        )
    if report.theoretical_speedup is not None:
        lines.append(
            f"Multiply-adds: {report.macs:,} of {report.dense_macs:,}; "
            f"theoretical speedup {report.theoretical_speedup:.2f}. That is "
            "no measured time."
        )
    for name, (value, dense) in report.metrics.items():
        against = "" if dense is None else f" (dense: {dense:.4f})"
        lines.append(f"{name}: {value:.4f}{against}")
    return lines


def _sizes(report):
    shown = _table(
        "File", ">Size", ">Gzipped", ">Dense", ">Dense gzipped", ">Ratio"
    )
    for size in report.sizes:
        ratio = "-"
        if size.dense_gzipped:
            ratio = f"{size.dense_gzipped / size.gzipped:.2f}"
        shown.add_row(
            size.format,
            *(
                "-" if count is None else large(count, "B")
                for count in (
                    size.raw,
                    size.gzipped,
                    size.dense_raw,
                    size.dense_gzipped,
                )
            ),
            ratio,
        )
    return shown


def _times(report):
    shown = _table(
        ">Batch", ">Milliseconds", ">Dense", ">Measured speedup [quartiles]"
    )
    for time in report.times:
        shown.add_row(
            str(time.batch_size),
            _milliseconds(time.seconds),
            _milliseconds(time.dense_seconds),
            "-"
            if time.speedup is None
            else "{:.2f} [{:.2f}, {:.2f}]".format(*time.speedup),
        )
    return shown


def _table(*names):
    shown = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for name in names:
        right = name.startswith(">")
        shown.add_column(
            name.removeprefix(">"),
            justify="right" if right else "left",
            no_wrap=right,
            overflow="fold",
        )
    return shown


def _as_text(shown):
    stream = io.StringIO()
    console = rich.console.Console(
        file=stream, width=_WIDTH, markup=False, highlight=False, emoji=False
    )
    console.print(shown)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _of(left, total):
    if left is None or total is None:
        return "-"
    return f"{left:,} of {total:,}"


def _milliseconds(spread):
    if spread is None:
        return "-"
    return "{:.2f} [{:.2f}, {:.2f}]".format(*(1e3 * x for x in spread))
