"""Report as a PDF, set by typst from plain data without a network.

The template reads strings from a JSON file. typst shows a string as text and never as markup. The fonts come with typst
and matplotlib: other scripts than Latin have letters, and every machine sets the same pages.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from driftloop.core.errors import DriftloopError
from serving.report.document import (
    Block,
    Bullets,
    Details,
    Document,
    Figure,
    Heading,
    Note,
    Pairs,
    Paragraph,
    Table,
)
from serving.report.svg_cleanup import missing_package

TEMPLATE = "template.typ"
LONGEST = 18
"""Characters without a blank after which a line break is allowed."""
_LONG = re.compile(rf"\S{{{LONGEST + 6},}}")
_JOINTS = re.compile(r"[^_/.,;:=&?|-]+[_/.,;:=&?|-]*|[_/.,;:=&?|-]+")
BREAK = "\u200b"


def render(document: Document) -> bytes:
    """Return the PDF.

    Raises:
        DriftloopError: typst or matplotlib is not installed, or typst rejects the document.
    """
    try:
        import matplotlib
        import typst
    except ImportError as error:
        raise missing_package("matplotlib" if error.name == "matplotlib" else "typst") from error
    drawings: dict[str, bytes] = {}
    content = {
        "title": document.title,
        "subtitle": breakable(document.subtitle),
        "author": document.author,
        "date": document.date,
        "chapters": [
            {"title": chapter.title, "blocks": [_block(block, drawings) for block in chapter.blocks]}
            for chapter in document.chapters
        ],
    }
    template = files("serving.report").joinpath(TEMPLATE).read_bytes()
    inputs = {"main.typ": template, "document.json": json.dumps(content).encode(), **drawings}
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    try:
        # The files are in memory and the first is the main one. The package's types do not cover that yet.
        body: bytes = typst.compile(inputs, format="pdf", font_paths=[str(fonts)])  # type: ignore[call-overload]
    except RuntimeError as error:  # typst's own kind of error
        raise DriftloopError(f"typst cannot set the report: {str(error)[:300]}.") from error
    return body


def breakable(text: str) -> str:
    """Return ``text`` with break opportunities in words that may be wider than a column."""

    def cut(found: re.Match[str]) -> str:
        parts = _JOINTS.findall(found[0])
        return BREAK.join(part[at : at + LONGEST] for part in parts for at in range(0, len(part), LONGEST))

    return _LONG.sub(cut, text)


def _block(block: Block, drawings: dict[str, bytes]) -> dict[str, Any]:
    match block:
        case Heading(text):
            return {"type": "heading", "text": breakable(text)}
        case Paragraph(text):
            return {"type": "paragraph", "text": breakable(text)}
        case Bullets(items):
            return {"type": "bullets", "items": [[breakable(lead), breakable(text)] for lead, text in items]}
        case Note(title, text):
            return {"type": "note", "title": breakable(title), "text": breakable(text)}
        case Pairs(caption, rows):
            return {"type": "pairs", "caption": caption, "rows": [[breakable(a), breakable(b)] for a, b in rows]}
        case Table(caption, columns, rows):
            heads = [{"head": breakable(one.head), "kind": one.kind, "weight": one.weight} for one in columns]
            cells = [[breakable(cell) for cell in row] for row in rows]
            return {"type": "table", "caption": caption, "columns": heads, "rows": cells}
        case Figure(caption, alt, svg):
            name = f"figure-{len(drawings) + 1}.svg"
            drawings[name] = svg.encode()
            return {"type": "figure", "caption": caption, "alt": alt, "file": name}
        case Details(summary, blocks):
            inner = [_block(one, drawings) for one in blocks]
            return {"type": "details", "summary": breakable(summary), "blocks": inner}
