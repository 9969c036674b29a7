"""Which messages of a replay lie on a topic already, read from its tail.

A replay never has more than a fixed number of messages in flight, oldest first, so whatever lies further back than
that behind its newest message was acknowledged. Only the tail can have gaps, and only the tail is read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from kafka import KafkaConsumer, TopicPartition

from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.settings import Settings

SILENCE = 30.0
"""Seconds without a message after which the broker counts as gone."""


@dataclass(frozen=True)
class Sent:
    """The positions of a replay that a topic holds: all up to ``last`` but for ``gaps``."""

    last: int
    """Highest position on the topic; -1: none."""
    gaps: tuple[int, ...]


def find_sent(settings: Settings, topic: str, positions: Mapping[bytes, int], in_flight: int) -> Sent:
    """Find the messages of a replay on ``topic``; ``positions`` gives the position for each of its keys.

    Messages of others between them do not matter. At most the last ``in_flight`` positions are looked at for gaps.

    Raises:
        DriftloopError: the broker stopped answering.
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
                here = {positions[key] for key in keys if key in positions}
                found |= here
                lowest[tp] = min(here, default=len(positions))
                upper[tp] = start
            settled = max(found, default=-1) - in_flight
            upper = {tp: end for tp, end in upper.items() if end > begins[tp] and not lowest[tp] <= settled}
            span *= 4
    last = max(found, default=-1)
    return Sent(last, tuple(p for p in range(max(0, last - in_flight), last) if p not in found))


def _keys(client: KafkaConsumer, tp: TopicPartition, start: int, end: int, broker: str) -> list[bytes]:
    """The keys of the messages with offsets in [start, end)."""
    if start >= end:
        return []
    client.assign([tp])
    client.seek(tp, start)
    keys: list[bytes] = []
    heard = time.monotonic()
    while client.position(tp) < end:
        batches = client.poll(timeout_ms=500, max_records=10_000)
        for record in batches.get(tp, ()):
            if record.offset < end and record.key is not None:
                keys.append(record.key)
        if batches:
            heard = time.monotonic()
        elif time.monotonic() - heard > SILENCE:
            raise DriftloopError(
                f"Kafka at {broker} stopped answering while {tp.topic} was read: see whether it runs, then run the "
                "same command again."
            )
    return keys
