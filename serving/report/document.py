"""Report as plain data: chapters of paragraphs, lists, tables, figures and notes. HTML and PDF are made from it.

Every string in it is text. No string is interpreted as markup, including text from the stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Heading:
    """Heading inside a chapter."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """List of pairs: a lead, which may be empty, and the text after it."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Note:
    """Highlighted text."""

    title: str
    text: str


@dataclass(frozen=True)
class Pairs:
    """Table of names with their values."""

    caption: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Column:
    """Column of a table; ``weight`` is the share of the width that a text column gets."""

    head: str
    kind: Literal["text", "number"] = "text"
    weight: float = 1.0


@dataclass(frozen=True)
class Table:
    """Table with one cell for each column in every row."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """Drawing: ``svg`` is an `svg` element, ``alt`` describes it for readers who cannot see it."""

    caption: str
    alt: str
    svg: str


@dataclass(frozen=True)
class Details:
    """Additional blocks: folded behind ``summary`` on the web page, in small type in the PDF."""

    summary: str
    blocks: Sequence[Block]


Block = Heading | Paragraph | Bullets | Note | Pairs | Table | Figure | Details


@dataclass(frozen=True)
class Chapter:
    """Chapter of the report."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """The whole report."""

    title: str
    subtitle: str
    author: str
    date: str
    chapters: Sequence[Chapter] = field(default_factory=tuple)


def texts(document: Document) -> Iterator[str]:
    """Return every text of the document in reading order, with captions and cells but without drawings."""
    yield from (document.title, document.subtitle, document.date)
    for chapter in document.chapters:
        yield chapter.title
        for block in chapter.blocks:
            yield from _texts(block)


def _texts(block: Block) -> Iterator[str]:
    match block:
        case Heading(text) | Paragraph(text):
            yield text
        case Bullets(items):
            for lead, text in items:
                yield from (lead, text)
        case Note(title, text):
            yield from (title, text)
        case Pairs(caption, rows):
            yield caption
            for name, value in rows:
                yield from (name, value)
        case Table(caption, columns, rows):
            yield caption
            yield from (column.head for column in columns)
            for row in rows:
                yield from row
        case Figure(caption, alt, _):
            yield from (caption, alt)
        case Details(summary, blocks):
            yield summary
            for inner in blocks:
                yield from _texts(inner)
