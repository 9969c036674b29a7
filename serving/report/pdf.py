"""The document as a PDF: set by typst from plain data, offline.

What the template gets are strings in a JSON file; typst shows a string as text and never reads it as markup. The fonts
come with typst and with matplotlib, so that scripts beyond Latin have letters and every machine sets the same page.
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
    Document,
    Figure,
    Heading,
    Note,
    Pairs,
    Paragraph,
    Table,
)
from serving.report.svg_cleanup import missing

TEMPLATE = "template.typ"
LONGEST = 18
"""Characters without a blank after which a line may be broken."""
_LONG = re.compile(rf"\S{{{LONGEST + 6},}}")
_JOINTS = re.compile(r"[^_/.,;:=&?|-]+[_/.,;:=&?|-]*|[_/.,;:=&?|-]+")
BREAK = "\u200b"


def render(document: Document) -> bytes:
    """The PDF.

    Raises:
        DriftloopError: typst or matplotlib is not installed, or refuses the document.
    """
    try:
        import matplotlib
        import typst
    except ImportError as error:
        raise missing("matplotlib" if error.name == "matplotlib" else "typst") from error
    drawings: dict[str, bytes] = {}
    told = {
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
    inputs = {"main.typ": template, "document.json": json.dumps(told).encode(), **drawings}
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    try:
        # Files in memory, of which the first is the main one; the package's own types do not know them yet.
        body: bytes = typst.compile(inputs, format="pdf", font_paths=[str(fonts)])  # type: ignore[call-overload]
    except RuntimeError as error:  # typst's own kind of error
        raise DriftloopError(f"typst could not set the report: {str(error)[:300]}.") from error
    return body


def breakable(text: str) -> str:
    """``text`` with places to break a line in words that are longer than a column may be wide."""

    def cut(found: re.Match[str]) -> str:
        parts = _JOINTS.findall(found[0])
        return BREAK.join(part[at : at + LONGEST] for part in parts for at in range(0, len(part), LONGEST))

    return _LONG.sub(cut, text)


def _block(block: Block, drawings: dict[str, bytes]) -> dict[str, Any]:
    match block:
        case Heading(text):
            return {"what": "heading", "text": breakable(text)}
        case Paragraph(text):
            return {"what": "paragraph", "text": breakable(text)}
        case Bullets(items):
            return {"what": "bullets", "items": [[breakable(lead), breakable(text)] for lead, text in items]}
        case Note(title, text):
            return {"what": "note", "title": breakable(title), "text": breakable(text)}
        case Pairs(caption, rows):
            return {"what": "pairs", "caption": caption, "rows": [[breakable(a), breakable(b)] for a, b in rows]}
        case Table(caption, columns, rows):
            heads = [{"head": breakable(one.head), "kind": one.kind, "weight": one.weight} for one in columns]
            cells = [[breakable(cell) for cell in row] for row in rows]
            return {"what": "table", "caption": caption, "columns": heads, "rows": cells}
        case Figure(caption, alt, svg):
            name = f"figure-{len(drawings) + 1}.svg"
            drawings[name] = svg.encode()
            return {"what": "figure", "caption": caption, "alt": alt, "file": name}
