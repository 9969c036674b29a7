"""The newest rows of a sequence, stored bit by bit: of some thousands a batch changes a few."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class BufferDelta(NamedTuple, Generic[T]):
    """What has become of the rows since they were last stored."""

    anew: bool
    """Whether these are all rows; otherwise they come behind those before."""
    rows: list[T]


class RowBuffer(deque[T]):
    """At most ``most`` rows; those before are forgotten."""

    def __init__(self, most: int) -> None:
        super().__init__((), most)
        self._fresh = 0
        self._anew = True

    def append(self, row: T) -> None:
        """Take the next row."""
        super().append(row)
        self._fresh += 1

    def put(self, rows: Iterable[T]) -> None:
        """Have these in place of all."""
        rows = list(rows)
        super().clear()
        super().extend(rows)
        self._anew = True

    def all(self) -> BufferDelta[T]:
        """All rows."""
        return BufferDelta(True, list(self))

    def take_delta(self) -> BufferDelta[T]:
        """What is new since this was last asked for; to be asked for once for each time that it is stored."""
        if self._anew or self._fresh >= len(self):
            part = self.all()
        else:
            part = BufferDelta(False, list(islice(self, len(self) - self._fresh, None)))
        self._fresh, self._anew = 0, False
        return part

    def take(self, part: BufferDelta[T]) -> None:
        """What `all` or `fresh` has given, one after the other."""
        if part.anew:
            super().clear()
        super().extend(part.rows)
