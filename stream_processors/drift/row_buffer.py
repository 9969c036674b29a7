"""Bounded row buffer with incremental persistence: only rows added since the last save are written."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class BufferDelta(NamedTuple, Generic[T]):
    """Change of a buffer since the last save."""

    complete: bool
    """True if `rows` replace all earlier ones; otherwise they are appended to them."""
    rows: list[T]


class RowBuffer(deque[T]):
    """Buffer of the newest rows.

    Args:
        size: Maximum number of rows; older ones are dropped.
    """

    def __init__(self, size: int) -> None:
        super().__init__((), size)
        self._added = 0
        self._replaced = True

    def append(self, row: T) -> None:
        """Append a row."""
        super().append(row)
        self._added += 1

    def replace(self, rows: Iterable[T]) -> None:
        """Replace all rows."""
        rows = list(rows)
        super().clear()
        super().extend(rows)
        self._replaced = True

    def all(self) -> BufferDelta[T]:
        """Return all rows."""
        return BufferDelta(True, list(self))

    def take_delta(self) -> BufferDelta[T]:
        """Return the rows added since the previous call. Call exactly once per save."""
        if self._replaced or self._added >= len(self):
            delta = self.all()
        else:
            delta = BufferDelta(False, list(islice(self, len(self) - self._added, None)))
        self._added, self._replaced = 0, False
        return delta

    def apply(self, delta: BufferDelta[T]) -> None:
        """Apply a result of `all` or `take_delta`; apply all of them in sequence to restore a buffer."""
        if delta.complete:
            super().clear()
        super().extend(delta.rows)
