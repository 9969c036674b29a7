"""Clean-up of Matplotlib's SVG for a web page: no style attribute, unique ids, colours that a style sheet can change.

The page's content security policy forbids inline styles, and typst does not need them. Both understand one attribute
for each property (SVG 2, chapter 6.6). The rules of a style sheet override these attributes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from driftloop.core.errors import DriftloopError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG, LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
INK, DIM, LINE, PAPER = "#1d2330", "#5b6474", "#d5d9e0", "#fbfbfc"
BLUE, RED, GREEN, ORANGE, VIOLET = "#1457a8", "#b3261e", "#1c6e35", "#b0560f", "#7a3f98"
PALE = "#b9cfe8"
COLOURS = {
    "ink": INK, "dim": DIM, "line": LINE, "paper": PAPER, "blue": BLUE, "red": RED, "green": GREEN, "orange": ORANGE,
    "violet": VIOLET, "pale": PALE,
}  # fmt: skip
"""Colours by name. The style sheet of the page replaces them by name on a dark page."""
SERIES = (BLUE, ORANGE, GREEN, VIOLET, RED, DIM, PALE)
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT = re.compile(r"(?:(?P<weight>bold|\d00)\s+)?(?P<size>[\d.]+)px\s+(?P<family>.+)")

ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", LINK)


def draw_svg(name: str, draw: Callable[[Figure], None], width: float = 7.2, height: float = 3.0) -> str:
    """Draw a figure and return it as an `svg` element. The same name and data give the same text.

    Args:
        name: Name of the drawing, unique in the report; it becomes a prefix of ids.
        draw: Function that draws on the figure.
        width: Width in inches.
        height: Height in inches.

    Raises:
        DriftloopError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_package("matplotlib") from error
    style: Any = {
        "svg.hashsalt": name, "svg.fonttype": "none", "text.parse_math": False, "font.family": "DejaVu Sans",
        "font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": DIM,
        "axes.labelcolor": INK, "text.color": INK, "xtick.color": DIM, "ytick.color": DIM, "axes.grid": False,
        "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
        "axes.unicode_minus": False,
    }  # fmt: skip
    buffer = io.BytesIO()
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a browser has more fonts than matplotlib
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _clean(buffer.getvalue(), name)


def missing_package(package: str) -> DriftloopError:
    """Return the error for a package of the extra `report` that is not installed."""
    return DriftloopError(f"A report needs {package}, which is not installed. Run: pip install 'driftloop[report]'.")


def _clean(source: bytes, name: str) -> str:
    root = ElementTree.fromstring(source)  # noqa: S314 - written by matplotlib above
    referenced = set(_REFERENCE.findall(source.decode()))
    referenced |= {element.get(f"{{{LINK}}}href", "").lstrip("#") for element in root.iter()}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}style", f"{{{SVG}}}metadata"):
                parent.remove(child)
    for element in root.iter():
        _split_style(element)
        if element.get("id") is not None and element.get("id") not in referenced:
            del element.attrib["id"]
        for key, value in list(element.attrib.items()):
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key == f"{{{LINK}}}href":
                del element.attrib[key]
                element.set("href", f"#{name}-{value[1:]}")
            else:
                element.set(key, _REFERENCE.sub(lambda found: f"url(#{name}-{found[1]})", value))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("stroke-linejoin", "round")
    return ElementTree.tostring(root, encoding="unicode")


def _split_style(element: ElementTree.Element) -> None:
    """Replace the style attribute by one attribute for each property."""
    for part in element.attrib.pop("style", "").split(";"):
        key, _, value = (piece.strip() for piece in part.partition(":"))
        font = _FONT.fullmatch(value) if key == "font" else None
        if font is not None:
            element.set("font-size", font["size"])
            element.set("font-family", font["family"].replace("'", ""))
            if font["weight"]:
                element.set("font-weight", font["weight"])
        elif key and key != "font":
            element.set(key, value)
