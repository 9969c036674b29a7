"""Stops a processor that would turn a whole stream into dead letters.

A few messages that cannot be processed are buried and passed over. When most of the newest cannot, something else is
wrong, a producer or a version, and burying on would only move the stream to another topic. The breaker then opens: the
messages stay where they are, and every now and then one batch is tried (Nygard, Release It!, 2007: circuit breaker).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW = 500
"""Newest messages that count."""
LEAST = 100
"""Dead letters among them below which nothing is said."""
PAUSE = 60.0
"""Seconds between two batches that are tried while the breaker is open."""


class CircuitBreaker:
    """Open while more than ``share`` of the newest messages became dead letters; with a share of 1 it never is."""

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._clock = clock
        self._newest: deque[tuple[int, int]] = deque()
        self._until = float("-inf")
        self.open = False

    @property
    def pause(self) -> float:
        """Seconds until the next batch may be taken; 0 while the breaker is closed."""
        return max(0.0, self._until - self._clock()) if self.open else 0.0

    def count(self, messages: int, dead: int) -> None:
        """A batch is through, and ``dead`` of its messages were buried."""
        if self.open and dead <= self._share * messages:
            self._newest.clear()
            self.open = False
        self._newest.append((messages, dead))
        while sum(size for size, _ in self._newest) - self._newest[0][0] >= WINDOW:
            self._newest.popleft()
        buried = sum(part for _, part in self._newest)
        if buried >= LEAST and buried > self._share * sum(size for size, _ in self._newest):
            self.open = True
            self._until = self._clock() + PAUSE

    def __str__(self) -> str:
        buried, size = sum(part for _, part in self._newest), sum(size for size, _ in self._newest)
        return (
            f"stopped: {buried} of the newest {size} messages could not be processed (see the topic dead-letters); "
            f"mend what writes them, one batch is tried every {PAUSE:.0f} s, and DRIFTLOOP_BREAKER=1 lets all pass"
        )
