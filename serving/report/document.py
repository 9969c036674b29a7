"""A report as plain data: chapters of paragraphs, lists, tables, figures and notes, which HTML and PDF are made of.

Every text in it is text: nothing is markup, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Heading:
    """A heading inside a chapter."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list; each item is what it is about, which may be empty, and what is said of it."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Note:
    """Something that must not be overlooked."""

    title: str
    text: str


@dataclass(frozen=True)
class Pairs:
    """Names with their values."""

    caption: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Column:
    """A column of a table; ``weight`` is the share of the width that a column of text gets."""

    head: str
    kind: Literal["text", "number"] = "text"
    weight: float = 1.0


@dataclass(frozen=True)
class Table:
    """A table with as many cells in each row as there are columns."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A drawing: ``svg`` is an element of its own, ``alt`` says what is to be seen for those who cannot see it."""

    caption: str
    alt: str
    svg: str


Block = Heading | Paragraph | Bullets | Note | Pairs | Table | Figure


@dataclass(frozen=True)
class Chapter:
    """A part of the report."""

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
    """Every text of the document in reading order, captions and cells included, drawings left out."""
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
