"""What every source of data is read into."""

from __future__ import annotations

import msgspec


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """The rows with a label, in the order of the source; all four columns have the same length."""

    texts: list[str]
    labels: list[str]
    segments: list[str]
    """Empty strings where the source has no segment column."""
    rows: list[int]
    """0-based row in the split, counted with the skipped rows."""
    revision: str
    """SHA-256 of the file, or of the three columns where there is not one file."""
    skipped: int
    """Rows left out because they had no label."""
