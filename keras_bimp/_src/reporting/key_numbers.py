"""The numbers of a report that come first."""

from collections.abc import Iterator

from keras_bimp._src.name_lists import listed
from keras_bimp._src.reporting.facts import Report
from keras_bimp._src.reporting.numerals import is_known
from keras_bimp._src.reporting.numerals import large
from keras_bimp._src.reporting.numerals import number
from keras_bimp._src.reporting.numerals import percent
from keras_bimp._src.reporting.numerals import ratio
from keras_bimp._src.reporting.numerals import signed


def key_numbers(report: Report) -> Iterator[tuple[str, str, str]]:
    """Sparsity, metrics, speedups and sizes, as far as they are known.

    Returns:
        For each its label, its value, and what it is compared with.
    """
    sparsity = percent(report.sparsity)
    yield "Sparsity of the prunable weights", sparsity, _of_all(report)
    for name, (value, dense) in report.metrics.items():
        note = f"dense {number(dense)}" if is_known(dense) else ""
        if note and is_known(value):
            note += f", difference {signed(value - dense)}"
        yield name, number(value), note
    if report.theoretical_speedup is not None:
        speedup = ratio(report.theoretical_speedup)
        dense, left = large(report.dense_macs), large(report.macs)
        note = f"multiply-adds {dense} → {left}; not measured time"
        yield "Theoretical speedup", speedup, note
    for time in report.times:
        if time.speedup is not None:
            label = f"Measured speedup, batch of {time.batch_size:,}"
            median, low, high = time.speedup
            yield label, ratio(median), f"quartiles {low:.2f} and {high:.2f}"
    for size in report.sizes:
        note = ""
        if size.dense_gzipped is not None:
            times = ratio(size.dense_gzipped / size.gzipped)
            note = f"dense {large(size.dense_gzipped, 'B')}, {times} as large"
        yield f"{size.format} file, gzipped", large(size.gzipped, "B"), note


def _of_all(report):
    whole = percent(report.total_sparsity)
    note = f"{whole} of all {report.parameters:,} parameters"
    if not report.left_out:
        return note
    share = sum(kernel.size for kernel in report.left_out) / report.parameters
    return (
        f"{note}, of which {percent(share)} are tables that only `filters` "
        f"asks for: {listed(kernel.path for kernel in report.left_out)}"
    )
