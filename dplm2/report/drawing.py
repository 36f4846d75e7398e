"""Style of the figures: colours for colour-blind readers, SVG that follows the page's theme.

matplotlib writes fixed colours. Those that mean something (ink, grid, series) are replaced by CSS variables when a
figure is put into the page, which defines them for light and for dark; the files below ``figures/`` keep them.
"""

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, NullFormatter

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
INK, FAINT, GRID = "#1b1f24", "#6b7280", "#dcdfe4"
# Okabe & Ito's palette, in an order in which neighbours differ in lightness too.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
MARKERS = ("o", "s", "^", "D", "v", "P")
VARIABLES = {INK: "--ink", FAINT: "--faint", GRID: "--grid"} | {c: f"--series-{i + 1}" for i, c in enumerate(SERIES)}
ALONE = 'style="background: #ffffff"'
WIDTH, HEIGHT = 4.2, 2.7  # inches: readable on a phone, two or three side by side on a desktop
# Within two decades of a logarithmic axis, 2, 3 and 5 are labelled too.
LARGEST_LABELLED_RATIO = 100
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names from data may hold dollar signs
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
}


@dataclass(frozen=True)
class Figure:
    """A finished figure.

    Attributes
    ----------
    name
        File name without ending.
    title, caption
        Content of the figure, and how to read it; plain text.
    svg
        The drawing as an SVG document.
    wide
        Whether it takes the page's whole width.
    """

    name: str
    title: str
    caption: str
    svg: str
    wide: bool = False

    def inline(self, prefix: str) -> str:
        """The drawing as an element of an HTML page: themed, ids made unique by ``prefix``."""
        ElementTree.register_namespace("", SVG)
        ElementTree.register_namespace("xlink", XLINK)
        root = ElementTree.fromstring(self.svg)
        for metadata in root.findall(f"{{{SVG}}}metadata"):
            root.remove(metadata)
        for element in root.iter():
            _theme(element, prefix)
        for attribute in ("width", "height", "style"):
            root.attrib.pop(attribute, None)
        root.set("role", "img")
        root.set("aria-label", self.title)
        return ElementTree.tostring(root, encoding="unicode")


def _theme(element: ElementTree.Element, prefix: str) -> None:
    for name, value in element.attrib.items():
        if name == "id":
            element.set(name, prefix + value)
        elif name == f"{{{XLINK}}}href" and value.startswith("#"):
            element.set(name, f"#{prefix}{value[1:]}")
        else:
            value = value.replace("url(#", f"url(#{prefix}")
            element.set(name, re.sub(r"#[0-9a-f]{6}\b", _variable, value) if name == "style" else value)


def _variable(match: re.Match) -> str:
    color = match.group()
    return f"var({VARIABLES[color]}, {color})" if color in VARIABLES else color


def slug(*parts: str) -> str:
    """A safe file name from arbitrary names."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(part for part in parts if part)).strip("-.").lower() or "figure"


@contextmanager
def axes(width: float = WIDTH, height: float = HEIGHT) -> Iterator[tuple[Axes, list[str]]]:
    """Axes to draw on; after the block, the list holds the SVG document."""
    out: list[str] = []
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "dplm2"}):
        # Not pyplot: it would keep figures, and look for a display.
        canvas = Canvas(figsize=(width, height), layout="constrained")
        ax = canvas.add_subplot()
        yield ax, out
        # Laid out once here: saving would draw everything a second time to do it.
        canvas.get_layout_engine().execute(canvas)
        canvas.set_layout_engine("none")
        stream = io.StringIO()
        canvas.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
        out.append(background(stream.getvalue()))


def background(svg: str) -> str:
    """The document with a white background, for a separate file; in a page it has the page's background."""
    return svg.replace("<svg ", f"<svg {ALONE} ", 1)


def logarithmic(axis: Axis) -> None:
    """Make an axis logarithmic, with plain tick labels."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axis.get_view_interval()
    if high / low > LARGEST_LABELLED_RATIO:
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "235" else ""))


def shorten(text: str, length: int = 34) -> str:
    """A name shortened to fit next to an axis."""
    return text if len(text) <= length else f"{text[: length - 9]}\u2026{text[-8:]}"
