"""State of the stream for the worker: newest outcomes, alerts, commands, human labels and earlier retrainings."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import replace

from driftloop.core import messages, metrics
from driftloop.core.coordination.fencing import FencingFilter
from driftloop.core.kafka import clients
from driftloop.core.kafka.auth import translate_auth_errors
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import Command, DriftAlert, Label, ModelUpdate, Outcome, Retraining
from driftloop.core.settings import RetrainSettings, Settings
from driftloop.core.topics import (
    COMMANDS,
    DEAD_LETTERS,
    DRIFT_ALERTS,
    LABELS,
    MODEL_UPDATES,
    OUTCOMES,
    RETRAINING,
    name,
)
from retrain.mixture.learner import DEFAULTS
from retrain.policies.base import CompletedRetraining

ALERTS_KEPT = 200
"""Number of newest alerts that a policy sees."""
ROLE = "retrainer"
"""Value of the label `role` of the metrics."""
LAG_EVERY = 3.0
"""Seconds between two readings of the lag."""


class StreamState:
    """Follows `outcomes`, `drift-alerts`, `model-updates`, `commands`, and the human labels on `labels`.

    Repeated messages count once.

    A new worker begins with the newest ``keep`` outcomes, all alerts, the finished retrainings, and the commands
    without an answer. A record that cannot be decoded becomes a dead letter.

    Args:
        settings: Settings of the stream.
        keep: Number of newest outcomes to keep.
        outbox: Producer for the dead letters.
    """

    def __init__(self, settings: Settings, keep: int, outbox: ConfirmedProducer) -> None:
        self._settings = settings
        self._outbox = outbox
        self._outcomes: deque[tuple[int, Outcome]] = deque(maxlen=keep)  # with their offsets
        self._event_ids: set[str] = set()
        self._fresh: list[Outcome] = []
        self._unlearnt: list[Outcome] = []
        self._alert_ids: set[str] = set()
        self._lag_read = float("-inf")
        self._fence = FencingFilter()
        self.champion: ModelUpdate | None = None
        """Newest promotion; `None` before the first."""
        self.alerts: deque[DriftAlert] = deque(maxlen=ALERTS_KEPT)
        """Newest alerts, oldest first."""
        self.labelled = 0
        """Number of labelled events so far."""
        self.corrections: dict[str, Label] = {}
        """Newest human label of each event, by event id. It replaces the label from the stream."""
        self.commands: deque[Command] = deque()
        """Commands of users, oldest first. The worker removes each one that it executes."""
        metrics.DEAD_LETTERS.labels(ROLE)  # a series that exists at zero shows its first increase
        history = _history(settings)
        self.past = _finished(history)
        """Finished retrainings, in the order in which they began."""
        self._answered = {message.run_id for message in history}
        self._readers = self._open_readers(keep)

    @property
    def outcomes(self) -> list[Outcome]:
        """The newest outcomes, oldest first."""
        return [outcome for _, outcome in self._outcomes]

    @property
    def outcomes_with_offsets(self) -> list[tuple[int, Outcome]]:
        """The newest outcomes with their offsets, oldest first."""
        return list(self._outcomes)

    @property
    def offsets(self) -> tuple[int, int]:
        """First and last offset of `outcomes`; -1 if there are none."""
        return (self._outcomes[0][0], self._outcomes[-1][0]) if self._outcomes else (-1, -1)

    @property
    def corrected(self) -> dict[str, tuple[str, str]]:
        """Label and annotator of the outcomes that have a human label, by event id."""
        pairs = ((outcome.event_id, self.corrections.get(outcome.event_id)) for _, outcome in self._outcomes)
        return {event_id: (label.label, label.annotator) for event_id, label in pairs if label is not None}

    def take_fresh(self) -> list[Outcome]:
        """Return the outcomes since the previous call, oldest first."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def take_unlearnt(self) -> list[Outcome]:
        """Return the outcomes that the champion's mixture has yet to learn, oldest first."""
        unlearnt, self._unlearnt = self._unlearnt, []
        return unlearnt

    def poll(self, milliseconds: int = 200) -> None:
        """Read new messages, waiting at most ``milliseconds`` for all topics together."""
        read = sum(reader.poll(milliseconds // len(self._readers)) for reader in self._readers)
        metrics.RECORDS.labels(ROLE).inc(read)
        if time.monotonic() - self._lag_read >= LAG_EVERY:
            self._lag_read = time.monotonic()
            metrics.LAG.labels(ROLE).set(sum(reader.end() - reader.position() for reader in self._readers))

    def catch_up(self, stopped: Callable[[], bool]) -> None:
        """Read all messages that are on the topics now, or fewer if ``stopped`` returns True."""
        ends = [reader.end() for reader in self._readers]
        while not stopped() and any(reader.position() < end for reader, end in zip(self._readers, ends, strict=True)):
            self.poll()

    def close(self) -> None:
        """Close the consumers."""
        for reader in self._readers:
            reader.close()

    def _open_readers(self, keep: int) -> list[_Reader]:
        settings = self._settings
        outcomes, labels = name(settings, OUTCOMES), name(settings, LABELS)
        newest = {0: max(0, clients.message_counts(settings, [outcomes])[outcomes] - keep)}
        # The labels of every event whose prediction is kept.
        since_kept = clients.offsets_since(settings, labels, time.time() - settings.keep_hours * 3600)
        return [
            _Reader(settings, OUTCOMES.name, newest, self._add_outcome, self._send_dead_letter),
            _Reader(settings, DRIFT_ALERTS.name, None, self._add_alert, self._send_dead_letter),
            # The scorer sends the dead letters of this topic.
            _Reader(settings, MODEL_UPDATES.name, None, self._add_promotion, lambda record, error: None),
            _Reader(settings, COMMANDS.name, None, self._add_command, self._send_dead_letter),
            # The monitor sends the dead letters of this topic.
            _Reader(settings, LABELS.name, since_kept, self._add_label, lambda record, error: None),
        ]

    def _send_dead_letter(self, record: Any, error: str) -> None:
        source = (record.topic, record.partition, record.offset)
        letter = messages.dead_letter(record.key, record.value, error, "retrainer", source, time.time())
        self._outbox.put(DEAD_LETTERS.name, letter.key, letter)
        self._outbox.flush()
        metrics.DEAD_LETTERS.labels(ROLE).inc()

    def _add_outcome(self, offset: int, body: bytes) -> None:
        outcome = messages.decode(Outcome, body)
        self.labelled = offset + 1
        if outcome.event_id in self._event_ids:
            return
        outcome = self._apply_correction(outcome)
        if len(self._outcomes) == self._outcomes.maxlen:
            self._event_ids.discard(self._outcomes[0][1].event_id)
        self._event_ids.add(outcome.event_id)
        self._outcomes.append((offset, outcome))
        self._fresh.append(outcome)
        self._unlearnt.append(outcome)

    def _add_label(self, offset: int, body: bytes) -> None:
        label = messages.decode(Label, body)
        if not label.feedback:
            return
        self.corrections[label.event_id] = label
        if label.event_id in self._event_ids:
            for index, (at, outcome) in enumerate(self._outcomes):
                if outcome.event_id == label.event_id:
                    self._outcomes[index] = at, self._apply_correction(outcome)

    def _add_command(self, offset: int, body: bytes) -> None:
        command = messages.decode(Command, body)
        if command.stream == self._settings.stream and command.command_id not in self._answered:
            self._answered.add(command.command_id)
            self.commands.append(command)

    def _add_alert(self, offset: int, body: bytes) -> None:
        alert = messages.decode(DriftAlert, body)
        if alert.stream == self._settings.stream and alert.alert_id not in self._alert_ids:
            self._alert_ids.add(alert.alert_id)
            self.alerts.append(alert)

    def _add_promotion(self, offset: int, body: bytes) -> None:
        update = messages.decode(ModelUpdate, body)
        if update.stream == self._settings.stream and self._fence.admits(update):
            self.champion = update

    def _apply_correction(self, outcome: Outcome) -> Outcome:
        """Return the outcome with its human label, if it has one."""
        label = self.corrections.get(outcome.event_id)
        return outcome if label is None else corrected(outcome, label.label, label.annotator)


class _Reader:
    """Consumer of one topic; a record that cannot be decoded is passed to ``reject`` with the reason."""

    def __init__(
        self,
        settings: Settings,
        topic: str,
        start: dict[int, int] | None,
        handle: Callable[[int, bytes], None],
        reject: Callable[[Any, str], None],
    ) -> None:
        self._context = clients.assigned_consumer(settings, settings.topic_prefix + topic, start, fetch_max_wait_ms=100)
        self._client: Any = self._context.__enter__()
        self._settings = settings
        self._handle = handle
        self._reject = reject

    def poll(self, milliseconds: int) -> int:
        """Handle new records, and return their number."""
        with translate_auth_errors(self._settings, "read"):
            polled = self._client.poll(timeout_ms=milliseconds)
        for records in polled.values():
            for record in records:
                try:
                    self._handle(record.offset, record.value or b"")
                except ValueError as error:
                    self._reject(record, f"not a {record.topic} message: {error}")
        return sum(map(len, polled.values()))

    def position(self) -> int:
        """Return the offset of the next record that `poll` handles."""
        return sum(self._client.position(partition) for partition in self._client.assignment())

    def end(self) -> int:
        """Return the offset that the next record on the topic will have."""
        return sum(self._client.end_offsets(list(self._client.assignment())).values())

    def close(self) -> None:
        self._context.__exit__(None, None, None)


def corrected(outcome: Outcome, label: str, annotator: str) -> Outcome:
    """Return an outcome with another label.

    Args:
        outcome: Outcome to correct.
        label: The label.
        annotator: Annotator who gave it.
    """
    return replace(outcome, label=label, correct=label == outcome.predicted, annotator=annotator)


def outcomes_kept(settings: RetrainSettings) -> int:
    """Return the number of newest outcomes that a worker keeps."""
    longest = max(DEFAULTS.sizes.values()) if settings.learns_from_every_label else 0
    return max(settings.window, longest)


def unfinished(settings: Settings) -> list[Retraining]:
    """Return the newest message of every retraining without an end on the topic `retraining`."""
    newest: dict[str, Retraining] = {}
    for message in _history(settings):
        newest[message.run_id] = message
        if message.is_final:
            del newest[message.run_id]
    return list(newest.values())


def _finished(history: list[Retraining]) -> list[CompletedRetraining]:
    """Return the finished retrainings, in the order in which they began."""
    finished = []
    for message in history:
        if message.state == "finished":
            with suppress(msgspec.ValidationError):  # a bootstrap and a manual action have no such record
                finished.append(msgspec.convert(message.scores.get("past"), CompletedRetraining))
    return sorted(finished, key=lambda past: past.labelled)


def _history(settings: Settings) -> list[Retraining]:
    found = clients.read_all(settings, name(settings, RETRAINING), Retraining)
    return [message for message in found if message.stream == settings.stream]
