"""Row of a scenario: one event before it is sent."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One event of a stream, before it is sent."""

    text: str
    label: str
    """The true label."""
    segment: str
    row: int
    """0-based row in the dataset's split."""
