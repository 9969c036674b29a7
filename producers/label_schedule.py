"""Label schedule of a replay: the tick at which each label is sent, behind its event.

At tick t the event at position t is sent. After the last event the ticks continue at the same rate until the last label
is sent.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LabelSchedule:
    """Ticks of the labels of a stream."""

    total: int
    """Number of events."""
    delay: int
    """Ticks between an event and its label."""
    bootstrap: int
    """Number of first events whose labels have no delay."""

    @property
    def ticks(self) -> int:
        """Number of ticks until the last event and the last label are sent."""
        return self.tick(self.total - 1) + 1 if self.total else 0

    def tick(self, position: int) -> int:
        """Return the tick at which the label of an event is sent. It never falls as positions rise."""
        return position if position < self.bootstrap else position + self.delay

    def due(self, tick: int) -> range:
        """Return the positions whose labels are sent at ``tick``: one or none."""
        if tick < min(self.bootstrap, self.total):
            return range(tick, tick + 1)
        late = tick - self.delay
        return range(late, late + 1) if self.bootstrap <= late < self.total else range(0)

    def sent_before(self, tick: int) -> int:
        """Return the number of labels, counted from position 0, that are sent before ``tick``."""
        early = min(tick, self.bootstrap, self.total)
        late = min(tick - self.delay, self.total) - self.bootstrap
        return early + max(late, 0)
