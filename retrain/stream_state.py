"""What the worker knows of the stream: the newest outcomes, the alerts, what people say, what was retrained before."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import replace

from driftloop.core import messages, metrics
from driftloop.core.kafka import clients
from driftloop.core.kafka.auth import translate_auth_errors
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import Command, DriftAlert, Label, Outcome, Retraining
from driftloop.core.settings import Settings
from driftloop.core.topics import COMMANDS, DEAD_LETTERS, DRIFT_ALERTS, LABELS, OUTCOMES, RETRAINING, Topic, name
from retrain.policies.policies import CompletedRetraining, PolicyContext

ALERTS_KEPT = 200
ROLE = "retrainer"
"""Of its metrics."""
LOOK_EVERY = 3.0
"""Seconds between two looks at the lag."""


class StreamState:
    """Follows `outcomes`, `drift-alerts`, `commands`, and people's words on `labels`; what is repeated counts once.

    A new worker begins with the newest ``keep`` outcomes, all alerts, the retrainings that were finished before, and
    the commands that nobody has answered. What is no message of its topic is put into ``outbox`` as a dead letter.
    """

    def __init__(self, settings: Settings, keep: int, outbox: ConfirmedProducer) -> None:
        self._settings = settings
        self._outbox = outbox
        self._outcomes: deque[tuple[int, Outcome]] = deque(maxlen=keep)
        self._known: set[str] = set()
        self.alerts: deque[DriftAlert] = deque(maxlen=ALERTS_KEPT)
        self._alert_ids: set[str] = set()
        self._fresh: list[Outcome] = []
        self.labelled = 0
        """Labelled events so far."""
        self.corrections: dict[str, Label] = {}
        """People's labels by event id, the newest of each; they count in place of those that came with the stream."""
        self.commands: deque[Command] = deque()
        """What people ask for, oldest first; whoever answers takes it out."""
        self._looked = float("-inf")
        """When the lag was looked at."""
        metrics.DEAD_LETTERS.labels(ROLE)  # what begins at zero is seen to rise from it
        history = _history(settings)
        self.past = _finished(history)
        self._answered = {message.run_id for message in history}
        start = {0: max(0, clients.end_offsets(settings, [name(settings, OUTCOMES)])[name(settings, OUTCOMES)] - keep)}
        self._readers = [
            _Reader(settings, OUTCOMES.name, start, self._outcome, self._bury),
            _Reader(settings, DRIFT_ALERTS.name, None, self._alert, self._bury),
            _Reader(settings, COMMANDS.name, None, self._command, self._bury),
            # What is no label is a dead letter of the monitor's already.
            _Reader(settings, LABELS.name, _since_kept(settings, LABELS), self._label, lambda record, error: None),
        ]

    @property
    def now(self) -> PolicyContext:
        """The moment, for a policy."""
        return PolicyContext(self.labelled, tuple(self.past))

    @property
    def outcomes(self) -> list[Outcome]:
        """The newest outcomes, oldest first."""
        return [outcome for _, outcome in self._outcomes]

    def take_fresh(self) -> list[Outcome]:
        """The outcomes that have come since the last call, oldest first."""
        fresh, self._fresh = self._fresh, []
        return fresh

    @property
    def offsets(self) -> tuple[int, int]:
        """First and last offset of `outcomes`, -1 when there are none."""
        return (self._outcomes[0][0], self._outcomes[-1][0]) if self._outcomes else (-1, -1)

    def poll(self, milliseconds: int = 200) -> None:
        """Take what has arrived, waiting at most ``milliseconds`` for each topic."""
        taken = sum(reader.poll(milliseconds // len(self._readers)) for reader in self._readers)
        metrics.RECORDS.labels(ROLE).inc(taken)
        if time.monotonic() - self._looked >= LOOK_EVERY:
            self._looked = time.monotonic()
            metrics.LAG.labels(ROLE).set(sum(reader.end() - reader.position() for reader in self._readers))

    def catch_up(self, stopped: Callable[[], bool]) -> None:
        """Take all that is on the topics at this moment, or less where ``stopped`` becomes true."""
        ends = [reader.end() for reader in self._readers]
        while not stopped() and any(reader.position() < end for reader, end in zip(self._readers, ends, strict=True)):
            self.poll()

    def close(self) -> None:
        """Leave the broker."""
        for reader in self._readers:
            reader.close()

    @property
    def corrected(self) -> dict[str, tuple[str, str]]:
        """Label and annotator, by event id, of the outcomes that have a person's label."""
        said = ((outcome, self.corrections.get(outcome.event_id)) for _, outcome in self._outcomes)
        return {outcome.event_id: (label.label, label.annotator) for outcome, label in said if label is not None}

    def _bury(self, record: Any, error: str) -> None:
        source = (record.topic, record.partition, record.offset)
        letter = messages.dead_letter(record.key, record.value, error, "retrainer", source, time.time())
        self._outbox.put(DEAD_LETTERS.name, letter.key, letter)
        self._outbox.flush()
        metrics.DEAD_LETTERS.labels(ROLE).inc()

    def _outcome(self, offset: int, body: bytes) -> None:
        outcome = messages.decode(Outcome, body)
        self.labelled = offset + 1
        if outcome.event_id in self._known:
            return
        outcome = self._apply_correction(outcome)
        if len(self._outcomes) == self._outcomes.maxlen:
            self._known.discard(self._outcomes[0][1].event_id)
        self._known.add(outcome.event_id)
        self._outcomes.append((offset, outcome))
        self._fresh.append(outcome)

    def _apply_correction(self, outcome: Outcome) -> Outcome:
        """The outcome with a person's label, where one has said another than the stream did."""
        said = self.corrections.get(outcome.event_id)
        return outcome if said is None else corrected(outcome, said.label, said.annotator)

    def _label(self, offset: int, body: bytes) -> None:
        label = messages.decode(Label, body)
        if not label.feedback:
            return
        self.corrections[label.event_id] = label
        if label.event_id in self._known:
            for place, (at, outcome) in enumerate(self._outcomes):
                if outcome.event_id == label.event_id:
                    self._outcomes[place] = at, self._apply_correction(outcome)

    def _command(self, offset: int, body: bytes) -> None:
        command = messages.decode(Command, body)
        if command.stream == self._settings.stream and command.command_id not in self._answered:
            self._answered.add(command.command_id)
            self.commands.append(command)

    def _alert(self, offset: int, body: bytes) -> None:
        alert = messages.decode(DriftAlert, body)
        if alert.stream == self._settings.stream and alert.alert_id not in self._alert_ids:
            self._alert_ids.add(alert.alert_id)
            self.alerts.append(alert)


def corrected(outcome: Outcome, label: str, annotator: str) -> Outcome:
    """The outcome with another label, by ``annotator``."""
    return replace(outcome, label=label, correct=label == outcome.predicted, annotator=annotator)


class _Reader:
    """One topic, read as it grows; ``refuse`` is told of what cannot be decoded, and why."""

    def __init__(
        self,
        settings: Settings,
        topic: str,
        start: dict[int, int] | None,
        take: Callable[[int, bytes], None],
        refuse: Callable[[Any, str], None],
    ) -> None:
        self._context = clients.assigned_consumer(settings, settings.topic_prefix + topic, start, fetch_max_wait_ms=100)
        self._client: Any = self._context.__enter__()
        self._settings = settings
        self._take = take
        self._refuse = refuse

    def poll(self, milliseconds: int) -> int:
        """Take what has come; returns how many messages."""
        with translate_auth_errors(self._settings, "read"):
            polled = self._client.poll(timeout_ms=milliseconds)
        for records in polled.values():
            for record in records:
                try:
                    self._take(record.offset, record.value or b"")
                except ValueError as error:
                    self._refuse(record, f"not a {record.topic} message: {error}")
        return sum(map(len, polled.values()))

    def position(self) -> int:
        """Offset of the next message that `poll` takes."""
        return sum(self._client.position(partition) for partition in self._client.assignment())

    def end(self) -> int:
        """Offset that the next message on the topic will have."""
        return sum(self._client.end_offsets(list(self._client.assignment())).values())

    def close(self) -> None:
        self._context.__exit__(None, None, None)


def unfinished(settings: Settings) -> list[Retraining]:
    """The newest message of every retraining that the topic `retraining` knows no end of."""
    newest: dict[str, Retraining] = {}
    for message in _history(settings):
        newest[message.run_id] = message
        if message.ends:
            del newest[message.run_id]
    return list(newest.values())


def _finished(history: list[Retraining]) -> list[CompletedRetraining]:
    """The retrainings that are said to be finished, in the order in which they began."""
    done = []
    for message in history:
        if message.state == "finished":
            with suppress(msgspec.ValidationError):  # a bootstrap's end and a person's word have no past
                done.append(msgspec.convert(message.scores.get("past"), CompletedRetraining))
    return sorted(done, key=lambda past: past.labelled)


def _since_kept(settings: Settings, topic: Topic) -> dict[int, int]:
    """Where to begin with a topic, so as to know of every event whose prediction is kept."""
    return clients.offsets_since(settings, name(settings, topic), time.time() - settings.keep_hours * 3600)


def _history(settings: Settings) -> list[Retraining]:
    found = clients.read_all(settings, name(settings, RETRAINING), Retraining)
    return [message for message in found if message.stream == settings.stream]
