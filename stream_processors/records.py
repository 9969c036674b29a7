"""A message as it lies on the broker, and what becomes of one that cannot be used."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from driftloop import logs
from driftloop.kafka import Outbox
from driftloop.messages import dead_letter
from driftloop.topics import DEAD_LETTERS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One message as it lies on the broker."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


def bury(outbox: Outbox, record: Record, error: str, where: str) -> None:
    """Put a dead letter for ``record`` into the outbox: its own bytes, what was wrong, and where."""
    source = (record.topic, record.partition, record.offset)
    with logs.about(event=(record.key or b"").decode(errors="replace")[:100]):
        log.info("dead letter of the %s: %s", where, error)
    letter = dead_letter(record.key, record.value, error, where, source, time.time())
    outbox.put(DEAD_LETTERS.name, letter.key, letter)
