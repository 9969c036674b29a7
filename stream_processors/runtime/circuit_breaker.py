"""Circuit breaker that stops a processor from turning a whole stream into dead letters.

A few messages that cannot be processed become dead letters, and the processor continues. When most of the newest
messages fail, the cause is a producer or a version. More dead letters would only move the stream to another topic. The
breaker then opens: the messages stay where they are, and one batch is tried after each pause (Nygard, Release It!,
2007: circuit breaker).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW = 500
"""Number of the newest messages that count."""
MIN_DEAD_LETTERS = 100
"""Dead letters among them below which the breaker stays closed."""


class CircuitBreaker:
    """Counter of dead letters that is open while too many of the newest messages became one.

    Args:
        share: Share of dead letters above which the breaker opens; 1 keeps it closed.
        pause_seconds: Seconds between two batches that are tried while it is open.
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, share: float, pause_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._pause_seconds = pause_seconds
        self._clock = clock
        # Messages and dead letters of each batch, oldest first.
        self._newest: deque[tuple[int, int]] = deque()
        self._retry_at = float("-inf")
        self.open = False

    @property
    def pause(self) -> float:
        """Seconds until the next batch may be taken; 0 while the breaker is closed."""
        return max(0.0, self._retry_at - self._clock()) if self.open else 0.0

    def count(self, messages: int, dead: int) -> None:
        """Count a finished batch, and open or close the breaker.

        Args:
            messages: Messages in the batch.
            dead: Messages of it that became dead letters.
        """
        if self.open and dead <= self._share * messages:
            self._newest.clear()
            self.open = False
        self._newest.append((messages, dead))
        while sum(size for size, _ in self._newest) - self._newest[0][0] >= WINDOW:
            self._newest.popleft()
        total, total_dead = self._totals()
        if total_dead >= MIN_DEAD_LETTERS and total_dead > self._share * total:
            self.open = True
            self._retry_at = self._clock() + self._pause_seconds

    def __str__(self) -> str:
        total, total_dead = self._totals()
        return (
            f"stopped: {total_dead} of the newest {total} messages could not be processed (see the topic "
            f"dead-letters). Correct their producer: one batch is tried every {self._pause_seconds:.0f} s. "
            "DRIFTLOOP_DEAD_LETTER_LIMIT=1 lets all pass"
        )

    def _totals(self) -> tuple[int, int]:
        """Return the number of messages and of dead letters in the window."""
        return sum(size for size, _ in self._newest), sum(dead for _, dead in self._newest)
