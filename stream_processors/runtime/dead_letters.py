"""Messages as they are on the broker, and dead letters for those that cannot be used."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import dead_letter
from driftloop.core.observability import logs, tracing
from driftloop.core.topics import DEAD_LETTERS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One message as it is on the broker."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tracing.Headers = ()
    """Empty if tracing is off."""


def send_dead_letter(outbox: ConfirmedProducer, record: Record, error: str, where: str) -> None:
    """Put a dead letter for a message into the outbox.

    Args:
        outbox: Producer that sends it.
        record: Message that cannot be used; its bytes go into the dead letter unchanged.
        error: Reason, in one sentence.
        where: Component that rejected the message, as ``scorer``.
    """
    source = (record.topic, record.partition, record.offset)
    letter = dead_letter(record.key, record.value, error, where, source, time.time())
    key = (record.key or b"").decode(errors="replace")[:100]
    with tracing.error_span("bury", record.topic, key, record.headers, error) as headers:
        with logs.log_context(event=key):
            log.info("dead letter of the %s: %s", where, error)
        outbox.put(DEAD_LETTERS.name, letter.key, letter, headers)
