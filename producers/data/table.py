"""Table of labelled rows, as every source returns it."""

from __future__ import annotations

import msgspec


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Labelled rows in the order of the source. All four columns have the same length."""

    texts: list[str]
    labels: list[str]
    segments: list[str]
    """Empty strings if the source has no segment column."""
    rows: list[int]
    """0-based row in the split, counted with the skipped rows."""
    revision: str
    """SHA-256 of the file, or of the three columns if the source is not one file."""
    skipped: int
    """Rows left out because they had no label."""
