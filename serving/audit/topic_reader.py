"""Snapshot of a stream's topics at one moment, read into the database of an audit.

The committed offsets of the processors are read first, then the ends of the topics, results before their sources. So an
event below a committed offset has its result in the snapshot, and each result has its source, even while the loop runs.
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

Report = Callable[[str], None]
"""Receives lines about the progress."""
Offsets = dict[TopicPartition, int]


class TopicSnapshot:
    """Committed offsets, end offsets, and the messages in between.

    Args:
        settings: Settings of the stream.
        database: Gets the rows.
        report: Receives lines about the progress.

    Raises:
        DriftloopError: The broker does not answer, or the stream has no topics.
    """

    def __init__(self, settings: Settings, database: AuditDatabase, report: Report) -> None:
        self._settings = settings
        self._database = database
        self._report = report
        self.messages: dict[str, int] = {}
        """Messages that were read, by topic."""
        self.whole: dict[str, bool] = {}
        """By topic, True if its first message is still kept."""
        self.vanished: dict[str, int] = {}
        """By topic, the messages that were acknowledged and lie beyond its end."""
        self.versions: set[str] = set()
        """Model versions of the predictions."""
        self._scored = self._committed("scorer", EVENTS)
        self._watched = self._committed("monitor", PREDICTIONS, LABELS)

    def read(self) -> None:
        """Read all topics up to their present ends."""
        ends = self._ends(OUTCOMES, DEAD_LETTERS, PREDICTIONS, LABELS, EVENTS)
        self._find_vanished(ends)
        self._read_outcomes(ends)
        self._read_dead_letters(ends)
        self._read_predictions(ends)
        self._read_labels(ends)
        self._read_events(ends)
        self._database.match_dead_letters(topics.name(self._settings, EVENTS))

    def _committed(self, role: str, *read: Topic) -> Offsets:
        """Return the first offset of each partition that the processors of ``role`` have not acknowledged."""
        return clients.committed_offsets(self._settings, role, [topics.name(self._settings, topic) for topic in read])

    def _ends(self, *order: Topic) -> dict[str, Offsets]:
        """Return the end offsets of each topic by its name, read in this order."""
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

    def _find_vanished(self, ends: dict[str, Offsets]) -> None:
        """Count the messages that a broker lost: its topics end before offsets that were read from it."""
        known = {tp: end for topic in ends.values() for tp, end in topic.items()}
        for tp, offset in (self._scored | self._watched).items():
            if offset > known[tp]:
                self.vanished[tp.topic] = self.vanished.get(tp.topic, 0) + offset - known[tp]

    def _records(self, topic: Topic, ends: dict[str, Offsets]) -> Iterator[list[Any]]:
        """Yield the records of a topic up to its end in the snapshot."""
        mine, read, reported_at = ends[topic.name], 0, time.monotonic()
        self.messages[topic.name] = 0
        for part in clients.records(self._settings, topics.name(self._settings, topic), ends=mine):
            read += len(part)
            self.messages[topic.name] = read
            if time.monotonic() - reported_at > 2:
                reported_at = time.monotonic()
                self._report(f"{topic.name}: {read} of {sum(mine.values())} read")
            yield part

    def _read_outcomes(self, ends: dict[str, Offsets]) -> None:
        for part in self._records(OUTCOMES, ends):
            found = [(_decoded(Outcome, record), record) for record in part]
            self._database.add_outcomes((one.event_id, digest(record.value)) for one, record in found if one)

    def _read_dead_letters(self, ends: dict[str, Offsets]) -> None:
        for part in self._records(DEAD_LETTERS, ends):
            letters = [_decoded(DeadLetter, record) for record in part]
            self._database.add_dead((one.topic, (one.partition, one.offset)) for one in letters if one)

    def _read_predictions(self, ends: dict[str, Offsets]) -> None:
        for part in self._records(PREDICTIONS, ends):
            found = [(_decoded(Prediction, record), record, _is_pending(record, self._watched)) for record in part]
            self.versions.update(one.model_version for one, _, _ in found if one)
            self._database.add_predictions(
                (one.event_id, digest(record.value), pending, one.predicted_at) for one, record, pending in found if one
            )
            self._database.add_undecodable((r.topic, _place(r), pending) for one, r, pending in found if not one)

    def _read_labels(self, ends: dict[str, Offsets]) -> None:
        for part in self._records(LABELS, ends):
            found = [(_decoded(Label, record), record, _is_pending(record, self._watched)) for record in part]
            self._database.add_labels((one.event_id, pending) for one, _, pending in found if one)
            self._database.add_undecodable((r.topic, _place(r), pending) for one, r, pending in found if not one)

    def _read_events(self, ends: dict[str, Offsets]) -> None:
        for part in self._records(EVENTS, ends):
            found = [(_decoded(Event, record), record) for record in part]
            self._database.add_events(
                (_place(record), one.event_id if one else None, _is_pending(record, self._scored))
                for one, record in found
            )


def _partitions(client: Any, settings: Settings, topic: Topic) -> list[TopicPartition]:
    full = topics.name(settings, topic)
    found = clients.partitions(client, full)
    if not found:
        raise DriftloopError(f"The broker at {settings.kafka} has no topic {full}. Check DRIFTLOOP_TOPIC_PREFIX.")
    return found


def _place(record: Any) -> Place:
    return record.partition, record.offset


def _is_pending(record: Any, reached: Offsets) -> bool:
    """Return True if a processor has not acknowledged the record."""
    return bool(record.offset >= reached.get(TopicPartition(record.topic, record.partition), 0))


def digest(body: bytes | None) -> bytes:
    """Return a digest of a message body."""
    return hashlib.blake2b(body or b"", digest_size=16).digest()


def _decoded(kind: type[Message], record: Any) -> Any:
    """Return the message of a record; `None` if it is undecodable."""
    try:
        return decode(kind, record.value or b"")
    except ValueError:
        return None
