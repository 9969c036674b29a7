"""Reads the topics of a stream into a ledger, as they stood at one moment.

The offsets that the processors have committed are read first and the ends of the topics after them, results before
what they come from: whatever the loop does meanwhile, an event below a committed offset has its result among those that
are read, and each result its cause.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from kafka import TopicPartition

from driftloop.core import topics
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.messages import DeadLetter, Event, Label, Message, Outcome, Prediction, decode
from driftloop.core.settings import Settings
from driftloop.core.topics import DEAD_LETTERS, EVENTS, LABELS, OUTCOMES, PREDICTIONS, Topic
from serving.audit.audit_db import AuditDatabase, Place

Say = Callable[[str], None]
Offsets = dict[TopicPartition, int]


class TopicSnapshot:
    """One look at a stream: what was acknowledged, where the topics ended, and what is on them up to there.

    Raises:
        DriftloopError: no broker answers, or the stream's topics are not there.
    """

    def __init__(self, settings: Settings, ledger: AuditDatabase, say: Say) -> None:
        self._settings = settings
        self._ledger = ledger
        self._say = say
        self.messages: dict[str, int] = {}
        """Messages of each topic that were read."""
        self.whole: dict[str, bool] = {}
        """Whether a topic is there from its first message on."""
        self.vanished: dict[str, int] = {}
        """By topic, how many messages were acknowledged by a processor that lie beyond the topic's end."""
        self.versions: set[str] = set()
        """The model versions that predictions name."""
        self._scored = self._committed("scorer", EVENTS)
        self._watched = self._committed("monitor", PREDICTIONS, LABELS)

    def read(self) -> None:
        """Read everything up to the present ends."""
        ends = self._ends(OUTCOMES, DEAD_LETTERS, PREDICTIONS, LABELS, EVENTS)
        self._look_beyond(ends)
        self._read_outcomes(ends)
        self._read_dead_letters(ends)
        self._read_predictions(ends)
        self._read_labels(ends)
        self._read_events(ends)
        self._ledger.match_dead_letters(topics.name(self._settings, EVENTS))

    def _committed(self, role: str, *read: Topic) -> Offsets:
        """The next offset of each partition that the processors of ``role`` have not acknowledged."""
        return clients.committed(self._settings, role, [topics.name(self._settings, topic) for topic in read])

    def _ends(self, *order: Topic) -> dict[str, Offsets]:
        """Where each topic ends, asked in that order, by its name."""
        client = clients.consumer(self._settings)
        ends: dict[str, Offsets] = {}
        try:
            for topic in order:
                partitions = _partitions(client, self._settings, topic)
                self.whole[topic.name] = not any(client.beginning_offsets(partitions).values())
                ends[topic.name] = dict(client.end_offsets(partitions))
        finally:
            client.close()
        return ends

    def _look_beyond(self, ends: dict[str, Offsets]) -> None:
        """A broker whose disk lost what it had acknowledged ends before the offsets that were read from it."""
        known = {tp: end for topic in ends.values() for tp, end in topic.items()}
        for tp, offset in (self._scored | self._watched).items():
            if offset > known[tp]:
                self.vanished[tp.topic] = self.vanished.get(tp.topic, 0) + offset - known[tp]

    def _records(self, topic: Topic, ends: dict[str, Offsets]) -> Iterator[list[Any]]:
        """The records of a topic up to the ends that were noted, in parts as they come."""
        mine, read, told = ends[topic.name], 0, time.monotonic()
        self.messages[topic.name] = 0
        for part in clients.records(self._settings, topics.name(self._settings, topic), ends=mine):
            read += len(part)
            self.messages[topic.name] = read
            if time.monotonic() - told > 2:
                told = time.monotonic()
                self._say(f"{topic.name}: {read} of {sum(mine.values())} read")
            yield part

    def _read_outcomes(self, ends: dict[str, Offsets]) -> None:
        for part in self._records(OUTCOMES, ends):
            found = [(_decoded(Outcome, record), record) for record in part]
            self._ledger.add_outcomes((one.event_id, digest(record.value)) for one, record in found if one)

    def _read_dead_letters(self, ends: dict[str, Offsets]) -> None:
        for part in self._records(DEAD_LETTERS, ends):
            letters = [_decoded(DeadLetter, record) for record in part]
            self._ledger.add_dead((one.topic, (one.partition, one.offset)) for one in letters if one)

    def _read_predictions(self, ends: dict[str, Offsets]) -> None:
        for part in self._records(PREDICTIONS, ends):
            found = [(_decoded(Prediction, record), record, _later(record, self._watched)) for record in part]
            self.versions.update(one.model_version for one, _, _ in found if one)
            self._ledger.add_predictions(
                (one.event_id, digest(record.value), later, one.predicted_at) for one, record, later in found if one
            )
            self._ledger.add_unread((r.topic, (r.partition, r.offset), later) for one, r, later in found if not one)

    def _read_labels(self, ends: dict[str, Offsets]) -> None:
        for part in self._records(LABELS, ends):
            found = [(_decoded(Label, record), record, _later(record, self._watched)) for record in part]
            self._ledger.add_labels((one.event_id, later) for one, _, later in found if one)
            self._ledger.add_unread((r.topic, (r.partition, r.offset), later) for one, r, later in found if not one)

    def _read_events(self, ends: dict[str, Offsets]) -> None:
        for part in self._records(EVENTS, ends):
            found = [(_decoded(Event, record), record) for record in part]
            self._ledger.add_events(
                (_place(record), one.event_id if one else None, _later(record, self._scored)) for one, record in found
            )


def _partitions(client: Any, settings: Settings, topic: Topic) -> list[TopicPartition]:
    full = topics.name(settings, topic)
    found = clients.partitions(client, full)
    if not found:
        raise DriftloopError(f"The broker at {settings.kafka} has no topic {full}: nothing of this stream is there.")
    return found


def _place(record: Any) -> Place:
    return record.partition, record.offset


def _later(record: Any, reached: Offsets) -> bool:
    """Whether a processor may still have the record before it."""
    return bool(record.offset >= reached.get(TopicPartition(record.topic, record.partition), 0))


def digest(body: bytes | None) -> bytes:
    """What tells two message bodies apart."""
    return hashlib.blake2b(body or b"", digest_size=16).digest()


def _decoded(kind: type[Message], record: Any) -> Any:
    """The message, None where it is none."""
    try:
        return decode(kind, record.value or b"")
    except ValueError:
        return None
