"""When each label is sent: labels are a stream of their own that runs behind the events.

The clock of a replay counts ticks: at tick t the event at position t is sent, and after the last event the ticks go
on, at the same rate, until the last label is out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LabelSchedule:
    """The labels of ``total`` events: the first ``bootstrap`` come at once, the others ``delay`` events later."""

    total: int
    delay: int
    bootstrap: int

    @property
    def ticks(self) -> int:
        """Ticks until the last event and the last label are sent."""
        return self.tick(self.total - 1) + 1 if self.total else 0

    def tick(self, position: int) -> int:
        """The tick at which the label of the event at ``position`` is sent; it never falls as positions rise."""
        return position if position < self.bootstrap else position + self.delay

    def due(self, tick: int) -> range:
        """The positions whose labels are sent at ``tick``: one or none."""
        if tick < min(self.bootstrap, self.total):
            return range(tick, tick + 1)
        late = tick - self.delay
        return range(late, late + 1) if self.bootstrap <= late < self.total else range(0)

    def sent_before(self, tick: int) -> int:
        """How many labels, counted from position 0, are sent before ``tick``."""
        early = min(tick, self.bootstrap, self.total)
        late = min(tick - self.delay, self.total) - self.bootstrap
        return early + max(late, 0)
