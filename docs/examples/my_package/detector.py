"""A detector: the cumulative sum of what goes beyond the usual (Page, 1954)."""

from __future__ import annotations

from stream_processors.drift.detectors import State


class Cusum:
    """Alarms when the signal has been above its mean, and more than ``slack`` above it, for ``limit`` in sum."""

    name = "cusum"

    def __init__(self, limit: float = 12.0, slack: float = 0.15) -> None:
        self.limit = limit
        self.slack = slack
        self.reset()

    def update(self, value: float) -> State:
        """Take the next value of the signal, from 0 to 1."""
        self.seen += 1
        self.mean += (value - self.mean) / self.seen
        self.sum = max(0.0, self.sum + value - self.mean - self.slack)
        if self.sum < self.limit:
            return State.WARNING if self.sum > self.limit / 2 else State.STABLE
        self.reset()
        return State.DRIFT

    def reset(self) -> None:
        """Forget everything: the model behind the signal has changed, or the drift has been told."""
        self.seen = 0
        self.mean = 0.0
        self.sum = 0.0
