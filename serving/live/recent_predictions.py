"""What has just come: the newest predictions, how long they took, and those whose label would help most."""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from statistics import quantiles

from driftloop.core.messages import Message, Outcome, Prediction
from driftloop.core.terminal_text import escape_control_chars

SHOWN = 12
"""Predictions of the feed."""
TIMED = 1000
"""Predictions that latencies are taken over."""
UNLABELLED = 5000
"""Predictions without a label that are remembered, the newest."""
HISTORY = 120
"""Seconds of speed, lag and latency that are kept."""


@dataclass(frozen=True)
class Line:
    """One prediction for people; all text of it can be shown on one line."""

    event_id: str
    """As it is: not for showing."""
    text: str
    label: str
    others: tuple[str, ...]
    """The labels that the model had less faith in, the likeliest first, as they are."""
    share: float
    version: str
    segment: str


@dataclass(frozen=True)
class Second:
    """How the loop did at one moment."""

    at: float
    rate: float
    """Predictions a second."""
    lag: int
    p50: float
    p99: float
    """Milliseconds from reading a batch to its predictions, of the newest `TIMED`; 0 before the first."""


class Recent:
    """Gathered from messages, in the order in which they come."""

    def __init__(self) -> None:
        self.seconds: deque[Second] = deque(maxlen=HISTORY)
        self._newest: deque[Prediction] = deque(maxlen=SHOWN)
        self._latencies: deque[float] = deque(maxlen=TIMED)
        self._waiting: OrderedDict[str, Prediction] = OrderedDict()

    def take(self, message: Message) -> None:
        """Learn from a message."""
        match message:
            case Prediction():
                self._newest.append(message)
                self._latencies.append(message.latency_ms)
                self._waiting[message.event_id] = message
                if len(self._waiting) > UNLABELLED:
                    self._waiting.popitem(last=False)
            case Outcome():
                self._waiting.pop(message.event_id, None)
            case _:
                pass

    def tick(self, rate: float, lag: int) -> None:
        """A second has gone by."""
        p50, p99 = self.latency()
        self.seconds.append(Second(time.time(), rate, lag, p50, p99))

    def latency(self) -> tuple[float, float]:
        """Median and 99th percentile of the newest latencies in ms, as `Second` has them."""
        if len(self._latencies) < 2:
            return (self._latencies[0],) * 2 if self._latencies else (0.0, 0.0)
        cuts = quantiles(self._latencies, n=100, method="inclusive")
        return cuts[49], cuts[98]

    def feed(self) -> list[Line]:
        """The newest predictions, the newest first."""
        return [_line(one) for one in reversed(self._newest)]

    def worth_labelling(self, most: int) -> list[Line]:
        """The unlabelled predictions whose two likeliest labels are closest: margin sampling (Scheffer et al. 2001)."""
        return [_line(one) for one in heapq.nsmallest(most, self._waiting.values(), key=_margin)]

    def labelled(self, event_id: str) -> None:
        """A person has just said what this one is; its outcome is still to come."""
        self._waiting.pop(event_id, None)


def _margin(one: Prediction) -> float:
    first, second = heapq.nlargest(2, [*one.probabilities.values(), 0.0, 0.0])
    return first - second


def _line(one: Prediction) -> Line:
    ranked = sorted(one.probabilities, key=lambda label: -one.probabilities[label])
    return Line(
        event_id=one.event_id,
        text=escape_control_chars(one.text, 280),
        label=one.label,
        others=tuple(label for label in ranked if label != one.label),
        share=one.probabilities.get(one.label, 0.0),
        version=escape_control_chars(one.model_version, 40),
        segment=escape_control_chars(one.segment, 60),
    )
