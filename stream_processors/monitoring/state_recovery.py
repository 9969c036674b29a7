"""What a monitor knows, found again on the topics where the store has forgotten it.

Outcomes say which events are joined, labels without an outcome still wait for their prediction, and detectors learn
what is usual from the newest of both. Nothing is published: what was said before lies on the topics.
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
"""Outcomes, and predictions, that the detectors learn from again: several times what they keep."""

Offsets = Mapping[TopicPartition, int]


def find_joins(settings: Settings, store: OnlineStore, seen: Offsets) -> int:
    """Tell the store again which events are joined, and which labels of those ``seen`` wait; the number of outcomes."""
    joined = 0
    for part in clients.records(settings, name(settings, OUTCOMES)):
        joined += store.mark_joined({one.event_id for one, _ in _decoded(Outcome, part)})
    for part in clients.records(settings, name(settings, LABELS), ends=seen):
        labels: dict[str, bytes] = {}
        for one, record in _decoded(Label, part):
            labels.setdefault(one.event_id, record.value)
        done = store.joined(list(labels))
        store.park_labels({event_id: body for event_id, body in labels.items() if event_id not in done})
    return joined


def learn_again(settings: Settings, watch: DriftMonitor, seen: Offsets, joined: int) -> None:
    """Give a new watch the newest predictions of those ``seen``, and the newest outcomes, in the order of their time.

    What it would declare has been declared. Embeddings are not to be had again: their signal begins anew.
    """
    moments: list[tuple[float, int, Message, int]] = []
    for outcome, record in _newest(settings, OUTCOMES, None):
        moments.append((outcome.labelled_at, 1, outcome, record.offset))
    for prediction, record in _newest(settings, PREDICTIONS, seen):
        moments.append((prediction.predicted_at, 0, prediction, record.offset))
    for _, _, message, offset in sorted(moments, key=lambda moment: (moment[0], moment[1])):
        if isinstance(message, Outcome):
            watch.labelled(message, offset)
        elif isinstance(message, Prediction):
            watch.predicted(message)
    watch.outcomes = joined
    if joined:
        log.warning("the monitor's state was not in the store: learnt again from %d messages", len(moments))


def _newest(settings: Settings, topic: Topic, seen: Offsets | None) -> list[tuple[Any, Any]]:
    full = name(settings, topic)
    ends = clients.ends(settings, full) if seen is None else seen
    mine = {tp.partition: end for tp, end in ends.items() if tp.topic == full}
    start = {partition: max(0, end - NEWEST // len(mine)) for partition, end in mine.items()}
    first: dict[str, tuple[Any, Any]] = {}
    for part in clients.records(settings, full, start, ends):
        for one, record in _decoded(topic.message, part):
            first.setdefault(one.event_id, (one, record))
    return list(first.values())


def _decoded(kind: type[Message], part: list[Any]) -> list[tuple[Any, Any]]:
    """The messages among the records, each with its own."""
    found = []
    for record in part:
        try:
            found.append((decode(kind, record.value or b""), record))
        except ValueError:
            continue
    return found
