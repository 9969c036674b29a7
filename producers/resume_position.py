"""Resume position: the messages of a replay that a topic already holds, read from its tail.

A replay never has more than a fixed number of messages in flight, oldest first. So all messages further than that
behind its newest message were acknowledged. Only the tail can have gaps, and only the tail is read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from kafka import KafkaConsumer, TopicPartition

from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.settings import Settings

READ_TIMEOUT = 30.0
"""Seconds without a message after which reading fails."""


@dataclass(frozen=True)
class Sent:
    """Positions of a replay that a topic holds: all up to ``last`` except ``gaps``."""

    last: int
    """Highest position on the topic. -1 if it has none."""
    gaps: tuple[int, ...]
    """Positions below ``last`` that are missing, ascending."""


def find_sent(settings: Settings, topic: str, positions: Mapping[bytes, int], in_flight: int) -> Sent:
    """Find the messages of a replay on a topic. Messages of other replays between them are ignored.

    Args:
        settings: Address and credentials of the broker.
        topic: Full name of the topic.
        positions: Position of each message of the replay, by its key.
        in_flight: Maximum number of unacknowledged messages of a replay. Gaps are searched in that many positions.

    Raises:
        DriftloopError: The broker stopped responding.
    """
    found: set[int] = set()
    with clients.assigned_consumer(settings, topic) as client:
        begins: dict[TopicPartition, int] = client.beginning_offsets(list(client.assignment()))
        upper: dict[TopicPartition, int] = client.end_offsets(list(client.assignment()))
        span = 2 * in_flight
        while upper:
            lowest: dict[TopicPartition, int] = {}
            for tp, end in upper.items():
                start = max(begins[tp], end - span)
                keys = _keys(client, tp, start, end, settings.kafka)
                read = {positions[key] for key in keys if key in positions}
                found |= read
                lowest[tp] = min(read, default=len(positions))
                upper[tp] = start
            complete_below = max(found, default=-1) - in_flight
            upper = {tp: end for tp, end in upper.items() if end > begins[tp] and not lowest[tp] <= complete_below}
            span *= 4
    last = max(found, default=-1)
    return Sent(last, tuple(p for p in range(max(0, last - in_flight), last) if p not in found))


def _keys(client: KafkaConsumer, tp: TopicPartition, start: int, end: int, broker: str) -> list[bytes]:
    """Return the keys of the messages with offsets in [start, end)."""
    if start >= end:
        return []
    client.assign([tp])
    client.seek(tp, start)
    keys: list[bytes] = []
    last_message_at = time.monotonic()
    while client.position(tp) < end:
        batches = client.poll(timeout_ms=500, max_records=10_000)
        for record in batches.get(tp, ()):
            if record.offset < end and record.key is not None:
                keys.append(record.key)
        if batches:
            last_message_at = time.monotonic()
        elif time.monotonic() - last_message_at > READ_TIMEOUT:
            raise DriftloopError(
                f"Kafka at {broker} stopped responding while {tp.topic} was read: check that it runs, then run the "
                "same command again."
            )
    return keys
