"""Matplotlib's SVG made fit for a page: no style attribute, no id twice, colours that a style sheet may change.

The page's content security policy lets no inline style through, and PDF wants none either: both understand an
attribute for each property (SVG 2, chapter 6.6). A style sheet's own rules win over those attributes.
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
"""By the name under which a style sheet may give another shade, for a dark page."""
SERIES = (BLUE, ORANGE, GREEN, VIOLET, RED, DIM, PALE)
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT = re.compile(r"(?:(?P<weight>bold|\d00)\s+)?(?P<size>[\d.]+)px\s+(?P<family>.+)")

ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", LINK)


def drawn(name: str, draw: Callable[[Figure], None], width: float = 7.2, height: float = 3.0) -> str:
    """The `svg` element of a figure of so many inches; the same name and figures give the same text.

    Raises:
        DriftloopError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing("matplotlib") from error
    style: Any = {
        "svg.hashsalt": name, "svg.fonttype": "none", "text.parse_math": False, "font.family": "DejaVu Sans",
        "font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": DIM,
        "axes.labelcolor": INK, "text.color": INK, "xtick.color": DIM, "ytick.color": DIM, "axes.grid": False,
        "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
        "axes.unicode_minus": False,
    }  # fmt: skip
    buffer = io.BytesIO()
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a browser has fonts that matplotlib has not
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _cleaned(buffer.getvalue(), name)


def missing(package: str) -> DriftloopError:
    """What is said where a package of the extra is not there."""
    return DriftloopError(f"A report needs {package}, which is not installed: pip install 'driftloop[report]'.")


def _cleaned(source: bytes, name: str) -> str:
    root = ElementTree.fromstring(source)  # noqa: S314 - matplotlib wrote it a moment ago
    wanted = set(_REFERENCE.findall(source.decode()))
    wanted |= {element.get(f"{{{LINK}}}href", "").lstrip("#") for element in root.iter()}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}style", f"{{{SVG}}}metadata"):
                parent.remove(child)
    for element in root.iter():
        _plain(element)
        if element.get("id") is not None and element.get("id") not in wanted:
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


def _plain(element: ElementTree.Element) -> None:
    """An attribute for each property of the style attribute."""
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
