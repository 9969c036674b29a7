"""Progress of a simulation: each event counted once, and the point at which nothing more is expected."""

from __future__ import annotations

import time
from collections.abc import Callable

from driftloop.core import topics
from driftloop.core.messages import DeadLetter, Label, Message, ModelUpdate, Outcome, Prediction
from serving.live.loop_history import LoopHistory
from serving.live.status import LoopStatus

QUIET = 3.0
"""Seconds without a message after which a complete loop counts as finished."""
STALLED = 120.0
"""Seconds without a message after which an incomplete loop is given up, once the replay has ended."""
STALLED_BUSY = 900.0
"""The same limit while a retraining is open: its candidates may work that long without a message."""


class LoopProgress:
    """Counts each event once and writes the counts to a `LoopStatus`.

    It keeps the id of every event in memory. A simulation is short enough for that; an endless stream is not.

    Args:
        status: Receives the counts.
        history: Open retrainings of the same loop.
        events_topic: Full name of the topic `events` on the broker.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        status: LoopStatus,
        history: LoopHistory,
        events_topic: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status = status
        self._history = history
        self._events_topic = events_topic
        self._labels_topic = events_topic.removesuffix(topics.EVENTS.name) + topics.LABELS.name
        self._clock = clock
        self._predicted: set[str] = set()
        self._joined: set[str] = set()
        self._labelled: set[str] = set()
        # Labels of an event that already has one: annotators correct labels of the stream, or come before them.
        self._repeated_labels = 0
        self._dead: set[tuple[str, int, int]] = set()
        self._dead_events = 0
        self._dead_labels = 0
        self._last_change = clock()

    def take(self, message: Message) -> None:
        """Count one message."""
        self._last_change = self._clock()
        status = self._status
        match message:
            case Prediction():
                status.duplicates += message.event_id in self._predicted
                self._predicted.add(message.event_id)
                status.first_prediction_seconds = _earliest(
                    status.first_prediction_seconds, message.predicted_at - status.began
                )
            case Outcome():
                self._joined.add(message.event_id)
            case Label():
                self._repeated_labels += message.event_id in self._labelled
                self._labelled.add(message.event_id)
            case DeadLetter():
                self._take_dead_letter(message)
            case ModelUpdate() if message.trigger != "bootstrap" and message.action == "promote":
                status.first_promotion_seconds = _earliest(
                    status.first_promotion_seconds, message.published_at - status.began
                )
            case _:
                pass
        self._refresh()

    def take_end_offsets(self, events: int, labels: int) -> None:
        """Store the numbers of messages written so far.

        Args:
            events: Messages on the topic `events`.
            labels: Messages on the topic `labels`.
        """
        if (events, labels) != (self._status.events, self._status.labels):
            self._last_change = self._clock()
        self._status.events, self._status.labels = events, labels
        self._refresh()

    @property
    def missing(self) -> str:
        """Incomplete work as one line of text; empty if nothing is missing."""
        status = self._status
        lines: list[str] = []
        if status.lag > 0:
            lines.append(f"{status.lag} of {status.events} events have no prediction")
        # The label of an event that became a dead letter can have no outcome.
        joinable = status.labels - self._repeated_labels - self._dead_labels - self._dead_events
        if joinable > status.outcomes:
            lines.append(f"{joinable - status.outcomes} of {status.labels} labels have no outcome")
        if self._history.open_runs:
            lines.append("a retraining has not finished")
        return ", ".join(lines)

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last message or the last new end offset."""
        return self._clock() - self._last_change

    @property
    def finished(self) -> bool:
        """Return True if a loop whose replay has ended is complete, or is given up."""
        if not self.missing:
            return self.idle_seconds >= QUIET
        return self.idle_seconds >= (STALLED_BUSY if self._history.open_runs else STALLED)

    def _take_dead_letter(self, letter: DeadLetter) -> None:
        place = (letter.topic, letter.partition, letter.offset)
        if place not in self._dead:
            self._dead.add(place)
            self._dead_events += letter.topic == self._events_topic
            self._dead_labels += letter.topic == self._labels_topic

    def _refresh(self) -> None:
        status = self._status
        status.predictions = len(self._predicted)
        status.outcomes = len(self._joined)
        status.dead_letters = len(self._dead)
        status.lag = max(status.events - status.predictions - self._dead_events, 0)


def _earliest(known: float | None, seconds: float) -> float | None:
    """Return the smaller of both; negative seconds are from an earlier session of the run and are ignored."""
    if seconds < 0:
        return known
    return seconds if known is None else min(known, seconds)
