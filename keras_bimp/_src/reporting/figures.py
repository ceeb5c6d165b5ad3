"""Which figures a report has."""

from collections.abc import Iterator
from xml.etree import ElementTree

from keras_bimp._src.reporting import charts
from keras_bimp._src.reporting.facts import Report
from keras_bimp._src.reporting.markup import figure
from keras_bimp._src.reporting.numerals import is_known
from keras_bimp._src.reporting.numerals import percent

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


def figures(report: Report) -> Iterator[ElementTree.Element]:
    """Draws the figures that a report has data for, in order."""
    if report.kernels:
        yield _kernels(report)
    known = {
        name: values
        for name, values in report.history.items()
        if any(map(is_known, values))
    }
    if "learning_rate" in known:
        yield _learning_rate(known, report.phases)
    if _metrics(known) or "sparsity" in known:
        yield _quality(known, report.phases)
    if report.histogram is not None:
        yield _weights(report.histogram)


def _kernels(report):
    chart = charts.bars(
        "Sparsity of each kernel; the table of kernels has the numbers",
        [(kernel.path, kernel.sparsity) for kernel in report.kernels],
        report.sparsity,
    )
    note = (
        f"The dashed line is at {percent(report.sparsity)}, the sparsity of "
        "all prunable weights."
    )
    return figure("Sparsity per kernel", chart, note=note)


def _learning_rate(history, phases):
    chart = charts.lines(
        "Learning rate over the epochs",
        {"learning_rate": history["learning_rate"]},
        phases,
        include=[0],
    )
    return figure("Learning rate over the epochs", chart)


def _quality(history, phases):
    """Draws the metrics, and below them the sparsity."""
    metrics = _metrics(history)
    shares = [name for name in metrics if _is_share(history[name])]
    groups = [shares] if shares else []
    groups += [[name] for name in metrics if name not in shares]
    drawn = [
        charts.lines(
            f"{', '.join(group)} over the epochs",
            {name: history[name] for name in group},
            phases,
        )
        for group in groups
    ]
    if "sparsity" in history:
        chart = charts.lines(
            "Sparsity over the epochs",
            {"sparsity": history["sparsity"]},
            phases,
            include=[0, 1],
            write="{:.0%}".format,
            height=80,
        )
        drawn.append(chart)
    both = "Metrics and sparsity" if metrics else "Sparsity"
    return figure(f"{both} over the epochs", *drawn)


def _weights(histogram):
    chart = charts.histogram("How many weights per value", histogram)
    compared = histogram.dense_counts is not None
    return figure(
        "Weights before and after" if compared else "Weights",
        chart,
        note="Number of weights in the kernels per value, without the zeros.",
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
