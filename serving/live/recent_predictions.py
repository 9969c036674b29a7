"""Newest predictions, their latencies, and the unlabelled ones whose label would help most."""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from statistics import quantiles

from driftloop.core.messages import Message, Outcome, Prediction
from driftloop.core.terminal_text import escape_control_chars

SHOWN = 12
"""Predictions in the feed."""
TIMED = 1000
"""Newest predictions whose latencies are kept."""
UNLABELLED = 5000
"""Newest predictions without a label that are kept."""
HISTORY = 120
"""Samples of speed, lag and latency that are kept."""


@dataclass(frozen=True)
class PredictionLine:
    """One prediction to be shown. `text`, `version` and `segment` are escaped and fit on one line."""

    event_id: str
    """Not escaped."""
    text: str
    label: str
    """Not escaped."""
    others: tuple[str, ...]
    """The other labels, most probable first. Not escaped."""
    share: float
    """Probability of `label`."""
    version: str
    segment: str


@dataclass(frozen=True)
class SpeedSample:
    """Speed, lag and latency at one moment."""

    at: float
    """Unix seconds."""
    rate: float
    """Predictions per second."""
    lag: int
    p50: float
    p99: float
    """Milliseconds from reading a batch to its predictions, over the newest `TIMED`; `0` before the first."""


class RecentPredictions:
    """Newest predictions. Feed it in the order of the topic."""

    def __init__(self) -> None:
        self.samples: deque[SpeedSample] = deque(maxlen=HISTORY)
        self._newest: deque[Prediction] = deque(maxlen=SHOWN)
        self._latencies: deque[float] = deque(maxlen=TIMED)
        self._unlabelled: OrderedDict[str, Prediction] = OrderedDict()

    def take(self, message: Message) -> None:
        """Add one message."""
        match message:
            case Prediction():
                self._newest.append(message)
                self._latencies.append(message.latency_ms)
                self._unlabelled[message.event_id] = message
                if len(self._unlabelled) > UNLABELLED:
                    self._unlabelled.popitem(last=False)
            case Outcome():
                self._unlabelled.pop(message.event_id, None)
            case _:
                pass

    def tick(self, rate: float, lag: int) -> None:
        """Add a sample of the present moment.

        Args:
            rate: Predictions per second.
            lag: Events without a prediction.
        """
        p50, p99 = self.latency()
        self.samples.append(SpeedSample(time.time(), rate, lag, p50, p99))

    def latency(self) -> tuple[float, float]:
        """Return the median and the 99th percentile of the newest latencies in ms; `0` without any."""
        if len(self._latencies) < 2:
            return (self._latencies[0],) * 2 if self._latencies else (0.0, 0.0)
        cuts = quantiles(self._latencies, n=100, method="inclusive")
        return cuts[49], cuts[98]

    def feed(self) -> list[PredictionLine]:
        """Return the newest predictions, newest first."""
        return [_line(prediction) for prediction in reversed(self._newest)]

    def worth_labelling(self, most: int) -> list[PredictionLine]:
        """Return at most ``most`` unlabelled predictions whose two most probable labels are closest.

        This is margin sampling (Scheffer et al. 2001).
        """
        return [_line(prediction) for prediction in heapq.nsmallest(most, self._unlabelled.values(), key=_margin)]

    def mark_labelled(self, event_id: str) -> None:
        """Remove an event that has just been labelled by hand; its outcome is still to come."""
        self._unlabelled.pop(event_id, None)


def _margin(prediction: Prediction) -> float:
    first, second = heapq.nlargest(2, [*prediction.probabilities.values(), 0.0, 0.0])
    return first - second


def _line(prediction: Prediction) -> PredictionLine:
    ranked = sorted(prediction.probabilities, key=lambda label: -prediction.probabilities[label])
    return PredictionLine(
        event_id=prediction.event_id,
        text=escape_control_chars(prediction.text, 280),
        label=prediction.label,
        others=tuple(label for label in ranked if label != prediction.label),
        share=prediction.probabilities.get(prediction.label, 0.0),
        version=escape_control_chars(prediction.model_version, 40),
        segment=escape_control_chars(prediction.segment, 60),
    )
