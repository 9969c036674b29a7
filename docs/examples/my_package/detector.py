"""Detector: the cumulative sum of deviations from the mean (Page, 1954)."""

from __future__ import annotations

from stream_processors.drift.detectors import State


class Cusum:
    """Alarms when the signal has exceeded its mean by more than ``slack``, by ``limit`` in sum.

    Args:
        limit: Sum of deviations that raises an alarm.
        slack: Deviation that is not counted.
    """

    name = "cusum"

    def __init__(self, limit: float = 12.0, slack: float = 0.15) -> None:
        self.limit = limit
        self.slack = slack
        self.reset()

    def update(self, value: float) -> State:
        """Take the next value of the signal, from 0 to 1, and return the state."""
        self.seen += 1
        self.mean += (value - self.mean) / self.seen
        self.sum = max(0.0, self.sum + value - self.mean - self.slack)
        if self.sum < self.limit:
            return State.WARNING if self.sum > self.limit / 2 else State.STABLE
        self.reset()
        return State.DRIFT

    def reset(self) -> None:
        """Forget everything, after the model has changed or a drift was reported."""
        self.seen = 0
        self.mean = 0.0
        self.sum = 0.0
