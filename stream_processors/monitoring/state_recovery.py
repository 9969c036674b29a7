"""Recovery of the monitor's state from the topics, for a store that has lost it.

Outcomes show which events are joined. Labels without an outcome still wait for their prediction. The detectors learn
their references from the newest predictions and outcomes. No message is published, because the earlier ones are still
on the topics.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from kafka import TopicPartition

from driftloop.core.kafka import clients
from driftloop.core.messages import Label, Message, Outcome, Prediction, decode
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import Settings
from driftloop.core.topics import LABELS, OUTCOMES, PREDICTIONS, Topic, name
from stream_processors.drift.drift_monitor import DriftMonitor

log = logging.getLogger(__name__)

NEWEST = 20_000
"""Number of outcomes, and of predictions, that the detectors learn from: several times the number that they keep."""

Offsets = Mapping[TopicPartition, int]


def rebuild_joins(settings: Settings, store: OnlineStore, seen: Offsets) -> int:
    """Store which events are joined, and which labels wait for a prediction; return the number of joined events.

    Args:
        settings: Settings of the stream.
        store: Store to write to.
        seen: Next offset by partition that the monitor has not seen; labels from there on are left out.
    """
    joined = 0
    for records in clients.records(settings, name(settings, OUTCOMES)):
        joined += store.mark_joined({outcome.event_id for outcome, _ in _decoded(Outcome, records)})
    for records in clients.records(settings, name(settings, LABELS), ends=seen):
        labels: dict[str, bytes] = {}
        for label, record in _decoded(Label, records):
            labels.setdefault(label.event_id, record.value)
        done = store.joined(list(labels))
        store.park_labels({event_id: body for event_id, body in labels.items() if event_id not in done})
    return joined


def rebuild_detectors(settings: Settings, detection: DriftMonitor, seen: Offsets, joined: int) -> None:
    """Give new detectors the newest predictions and outcomes, in the order of their time.

    Their alerts are dropped, because they were published before. Embeddings cannot be recovered, so their signal begins
    anew.

    Args:
        settings: Settings of the stream.
        detection: Detectors without a state.
        seen: Next offset by partition that the monitor has not seen; predictions from there on are left out.
        joined: Number of joined events.
    """
    moments: list[tuple[float, int, Message, int]] = []
    for outcome, record in _newest(settings, OUTCOMES, None):
        moments.append((outcome.labelled_at, 1, outcome, record.offset))
    for prediction, record in _newest(settings, PREDICTIONS, seen):
        moments.append((prediction.predicted_at, 0, prediction, record.offset))
    for _, _, message, offset in sorted(moments, key=lambda moment: (moment[0], moment[1])):
        if isinstance(message, Outcome):
            detection.labelled(message, offset)
        elif isinstance(message, Prediction):
            detection.predicted(message)
    detection.outcomes = joined
    if joined:
        log.warning("the monitor's state was not in the store: it was rebuilt from %d messages", len(moments))


def _newest(settings: Settings, topic: Topic, seen: Offsets | None) -> list[tuple[Any, Any]]:
    """Return the newest messages of a topic with their records, the first for each event."""
    full = name(settings, topic)
    ends = clients.partition_ends(settings, full) if seen is None else seen
    partition_ends = {tp.partition: end for tp, end in ends.items() if tp.topic == full}
    start = {partition: max(0, end - NEWEST // len(partition_ends)) for partition, end in partition_ends.items()}
    first: dict[str, tuple[Any, Any]] = {}
    for records in clients.records(settings, full, start, ends):
        for message, record in _decoded(topic.message, records):
            first.setdefault(message.event_id, (message, record))
    return list(first.values())


def _decoded(kind: type[Message], records: list[Any]) -> list[tuple[Any, Any]]:
    """Return the messages that can be decoded, each with its record."""
    found = []
    for record in records:
        try:
            found.append((decode(kind, record.value or b""), record))
        except ValueError:
            continue
    return found
