"""Charts of matplotlib as SVG elements that belong to a page.

Colours become variables of the page's style sheet, which knows whether it is
dark, and fonts are left to it.
"""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from xml.etree import ElementTree

from keras_bimp._src.reporting.short_labels import printable

# Name -> the colour on a light page, and on a dark one.
COLOURS = {
    "ink": ("#1c2127", "#e5e9ed"),
    "soft": ("#58636e", "#9ba7b3"),
    "rule": ("#d7dde3", "#363e47"),
    "paper": ("#ffffff", "#14181c"),
    "band": ("#f1f4f7", "#1c2127"),
    "band-even": ("#e4eaf0", "#262d35"),
    "blue": ("#0072b2", "#56b4e9"),
    "orange": ("#c24e00", "#f0a04b"),
    "green": ("#00785a", "#3fc79e"),
    "purple": ("#9c3f7c", "#e59bc8"),
}
LIGHT = {name: light for name, (light, _) in COLOURS.items()}
WIDTH = 360  # Of a phone.

_TOOLTIP = "tooltip: "
_LINES = {
    "color": [LIGHT[name] for name in ("blue", "orange", "green", "purple")],
    "linestyle": ["-", (0, (3, 2)), (0, (0.5, 2)), (0, (4, 2, 0.5, 2))],
}
_STYLE = {
    "axes.autolimit_mode": "round_numbers",
    "axes.axisbelow": True,
    "axes.labelcolor": LIGHT["soft"],
    "axes.xmargin": 0,
    "axes.ymargin": 0,
    "figure.frameon": False,
    "font.size": 12,
    "grid.color": LIGHT["rule"],
    "legend.frameon": False,
    "lines.dash_capstyle": "round",
    "lines.linewidth": 1.75,
    "lines.solid_capstyle": "round",
    "patch.linewidth": 1.25,
    "path.simplify": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "keras_bimp",
    "text.color": LIGHT["ink"],
    "text.parse_math": False,
    **{f"{axis}tick.color": LIGHT["soft"] for axis in "xy"},
    **{f"{axis}tick.labelsize": 12 for axis in "xy"},
    **{f"{axis}tick.major.size": 0 for axis in "xy"},
}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Has matplotlib draw the same whatever it is set to, and puts that back.

    Glyphs that its fonts lack give no warnings: the page has other fonts.
    """
    import matplotlib.style

    style = {**_STYLE, "axes.prop_cycle": matplotlib.cycler(**_LINES)}
    with (
        warnings.catch_warnings(),
        matplotlib.style.context(style, after_reset=True),
    ):
        warnings.simplefilter("ignore", UserWarning)
        yield


def new_axes(
    height: int, *, top: int, bottom: int = 34, left: int = 58, right: int = 12
):
    """Axes of a new figure, as wide as a phone.

    Args:
        height: Of the axes.
        top: Height of what is above them.
        bottom: Height of what is below them.
        left: Width of what is left of them.
        right: Width of what is right of them.
    """
    from matplotlib.figure import Figure

    whole = top + height + bottom
    figure = Figure(figsize=(WIDTH / 72, whole / 72))
    width = WIDTH - left - right
    return figure.add_axes(
        (left / WIDTH, bottom / whole, width / WIDTH, height / whole),
        frameon=False,
    )


def add_tooltip(artist, text: str) -> None:
    """Has a page show a text where the pointer is over an artist."""
    artist.set_gid(_TOOLTIP + printable(text))


def inline_svg(axes, label: str) -> str:
    """Draws what `new_axes` returned as an SVG element.

    Args:
        axes: With all that belongs on them.
        label: What they show, for those who cannot see it.
    """
    written = io.StringIO()
    unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    axes.figure.savefig(written, format="svg", metadata=unsaid)
    root = ElementTree.fromstring(written.getvalue())
    for defs in root.findall("{*}defs"):  # A style sheet for the whole page.
        root.remove(defs)
    for element in list(root.iter()):
        element.tag = element.tag.rpartition("}")[2]
        # Ids are those of the whole page: two charts would share them.
        name = element.attrib.pop("id", "")
        element.attrib.pop("clip-path", None)
        if name.startswith(_TOOLTIP):
            title = ElementTree.Element("title")
            title.text = name.removeprefix(_TOOLTIP)
            element.insert(0, title)
        if style := element.get("style"):
            element.set("style", _of_the_page(style))
    box = root.attrib["viewBox"]
    root.attrib = {"viewBox": box, "role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _of_the_page(style):
    """Leaves out fonts, and names colours."""
    style = re.sub(r"font[\w-]*:[^;]*(; *|$)", "", style)
    for name, colour in LIGHT.items():
        style = style.replace(colour, f"var(--{name})")
    return style
