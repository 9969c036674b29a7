"""What a running loop has done so far, counted from its topics, and whether it is through."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from driftloop.core import topics
from driftloop.core.messages import DeadLetter, Label, Message, ModelUpdate, Outcome, Prediction, Retraining
from driftloop.core.topics import Topic

QUIET = 3.0
"""Seconds without a message after which a loop that has done everything counts as through."""
STALLED = 120.0
"""Seconds without a message, the replay over and something missing, after which nothing more is expected."""
STALLED_BUSY = 900.0
"""The same while a retraining is under way, which may be silent for as long as its candidates may take."""

FOLLOWED = (
    topics.PREDICTIONS,
    topics.OUTCOMES,
    topics.DRIFT_ALERTS,
    topics.MODEL_UPDATES,
    topics.RETRAINING,
    topics.DEAD_LETTERS,
)
"""The topics whose messages are counted one by one."""


@dataclass
class ChildState:
    """One child process, as the view shows it."""

    name: str
    running: bool = False
    restarts: int = 0
    exit_code: int | None = None
    last_words: str = ""
    """The last line of its log, once it has ended or been restarted."""


@dataclass
class State:
    """The loop at one moment; ``began`` is Unix seconds."""

    began: float
    total: int = 0
    """Events that the scenario will send."""
    phase: str = "starting"
    """starting, waiting for the first model, running, finishing, stopping."""
    notes: list[str] = field(default_factory=list)
    children: dict[str, ChildState] = field(default_factory=dict)
    page: str = ""
    """Address of the live page, once it answers."""
    events: int = 0
    labels: int = 0
    predictions: int = 0
    """Events with a prediction, each counted once."""
    duplicates: int = 0
    outcomes: int = 0
    dead_letters: int = 0
    lag: int = 0
    """Events on the topic without prediction or dead letter."""
    first_prediction_seconds: float | None = None
    first_promotion_seconds: float | None = None
    memory_mb: float = 0.0
    peak_memory_mb: float = 0.0


class LoopProgress:
    """Counts messages and keeps `State` up to date."""

    def __init__(self, state: State, events_topic: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.state = state
        self._events_topic = events_topic
        self._clock = clock
        self._predicted: set[str] = set()
        self._joined: set[str] = set()
        self._labelled: set[str] = set()
        self._again = 0
        """Labels for events that have one: people correct what the stream has labelled, or will."""
        self._dead: set[tuple[str, int, int]] = set()
        self._dead_events: set[tuple[int, int]] = set()
        self._runs: dict[str, bool] = {}
        self._moved = clock()

    def add(self, topic: Topic, message: Message) -> None:
        """Count one message of `FOLLOWED`, or a label."""
        self._moved = self._clock()
        state = self.state
        match message:
            case Prediction():
                if message.event_id in self._predicted:
                    state.duplicates += 1
                self._predicted.add(message.event_id)
                state.first_prediction_seconds = _earliest(
                    state.first_prediction_seconds, message.predicted_at - state.began
                )
            case Outcome():
                self._joined.add(message.event_id)
            case Label():
                self._again += message.event_id in self._labelled
                self._labelled.add(message.event_id)
            case DeadLetter():
                self._dead.add((message.topic, message.partition, message.offset))
                if message.topic == self._events_topic:
                    self._dead_events.add((message.partition, message.offset))
            case ModelUpdate() if message.trigger != "bootstrap" and message.action == "promote":
                state.first_promotion_seconds = _earliest(
                    state.first_promotion_seconds, message.published_at - state.began
                )
            case Retraining():
                self._runs[message.run_id] = message.ends
            case _:
                pass
        self._refresh()

    def ends(self, events: int, labels: int) -> None:
        """Take the end offsets of the topics `events` and `labels`."""
        if (events, labels) != (self.state.events, self.state.labels):
            self._moved = self._clock()
        self.state.events, self.state.labels = events, labels
        self._refresh()

    @property
    def retraining(self) -> bool:
        """Whether a retraining has not ended; one that was cut off is closed by the next worker's first words."""
        return not all(self._runs.values())

    @property
    def missing(self) -> str:
        """What has not come yet, in words; empty when everything has."""
        state = self.state
        lacking: list[str] = []
        if state.lag > 0:
            lacking.append(f"{state.lag} of {state.events} events have no prediction")
        # The label of an event that became a dead letter has nothing to be joined with.
        unjoined = state.labels - self._again - self._dead_labels - len(self._dead_events) - state.outcomes
        if unjoined > 0:
            lacking.append(f"{unjoined} of {state.labels} labels have no outcome")
        if self.retraining:
            lacking.append("a retraining has not finished")
        return ", ".join(lacking)

    @property
    def idle_seconds(self) -> float:
        """Seconds since something moved."""
        return self._clock() - self._moved

    @property
    def finished(self) -> bool:
        """Whether a loop whose replay is over has nothing left to do, or nothing more is to be expected of it."""
        if not self.missing:
            return self.idle_seconds >= QUIET
        return self.idle_seconds >= (STALLED_BUSY if self.retraining else STALLED)

    @property
    def _dead_labels(self) -> int:
        labels = self._events_topic.removesuffix(topics.EVENTS.name) + topics.LABELS.name
        return sum(topic == labels for topic, _, _ in self._dead)

    def _refresh(self) -> None:
        state = self.state
        state.predictions = len(self._predicted)
        state.outcomes = len(self._joined)
        state.dead_letters = len(self._dead)
        state.lag = max(state.events - state.predictions - len(self._dead_events), 0)


def _earliest(known: float | None, seconds: float) -> float | None:
    """The earlier of both; what happened before this session began says nothing about it."""
    if seconds < 0:
        return known
    return seconds if known is None else min(known, seconds)
