"""The page of a report: one HTML file that needs nothing else."""

from keras_bimp._src.reporting.facts import Report
from keras_bimp._src.reporting.figures import figures
from keras_bimp._src.reporting.inline_svg import COLOURS
from keras_bimp._src.reporting.inline_svg import drawing
from keras_bimp._src.reporting.key_numbers import key_numbers
from keras_bimp._src.reporting.report_tables import tables
from keras_bimp._src.reporting.short_labels import printable


def page(report: Report) -> str:
    """Writes a report as one HTML page.

    The page loads nothing, has no scripts, and shows names as text whatever
    is in them.

    Args:
        report: What to show; what it lacks is left out.

    Returns:
        The text of the file, to be written as UTF-8.

    Raises:
        ImportError: If jinja2 or matplotlib is not installed.
    """
    check_page_packages()
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.PackageLoader(__package__, ""),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    with drawing():
        drawn = list(figures(report))
    text = environment.get_template("page.html.jinja").render(
        report=report,
        colours=COLOURS,
        figures=drawn,
        key_numbers=key_numbers(report),
        tables=tables(report),
        targets=[(each.target, each.text) for each in report.verdicts],
    )
    return printable(text)


def check_page_packages() -> None:
    """Raises ImportError unless all that makes a page is there."""
    try:
        import jinja2  # noqa: F401
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Argument `path` needs jinja2 and matplotlib, which make the page: "
            f'pip install "keras_bimp[report]". Received: {error}'
        ) from error
