"""The loop that both processors use: a batch is acknowledged only when its results are safe.

Faust reads raw bytes and hands over batches without acknowledging them (`noack_take`). A handler works on a batch in
a thread of its own and returns when everything it wrote has been confirmed by its store; only then are the events
acknowledged and, later, their offsets committed. Any exception ends the process with nothing acknowledged, and
whoever started it starts it again: the batch is read once more.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import faust
import mode

from driftloop import kafka
from driftloop.errors import DriftloopError
from driftloop.messages import dead_letter
from driftloop.settings import Settings
from driftloop.topics import DEAD_LETTERS, Topic, name


@dataclass(frozen=True)
class Record:
    """One message as it lies on the broker."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


class Handler(Protocol):
    """What a processor does with a batch."""

    def open(self) -> None:
        """Connect to what is needed; called once, in the worker thread."""
        ...

    def handle(self, records: Sequence[Record]) -> None:
        """Process a batch; return only when every result is confirmed."""
        ...

    def close(self) -> None:
        """Stop waiting for anything; called from another thread."""
        ...


def bury(outbox: kafka.Outbox, record: Record, error: str, where: str) -> None:
    """Put a dead letter for ``record`` into the outbox: its own bytes, what was wrong, and where."""
    source = (record.topic, record.partition, record.offset)
    outbox.put(DEAD_LETTERS.name, record.key, dead_letter(record.key, record.value, error, where, source, time.time()))


class Stopped(Exception):
    """The processor was asked to stop while a batch was under way; the batch is not acknowledged."""


def run(
    role: str, settings: Settings, topics: Sequence[Topic], handler: Handler, *, member: str, batch: int, within: float
) -> None:
    """Read ``topics`` as the consumer group ``driftloop-ROLE-STREAM`` until SIGTERM or SIGINT, then return.

    A batch that fails ends the whole process at once with one line on standard error: status 2 for a
    `DriftloopError`, 1 for anything else. Start it again and the batch is read once more.
    """
    app = _app(role, settings, member)
    _agent(app, [name(settings, topic) for topic in topics], handler, batch, within)
    worker = faust.Worker(app, loglevel="WARNING", redirect_stdouts=False, quiet=True)
    worker.spinner = None  # it writes cursor codes, into logs as well
    for library in ("faust", "mode", "aiokafka", "asyncio"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        worker.execute_from_commandline()
    except SystemExit as end:
        if end.code:
            raise DriftloopError(
                f"The {role} was ended by an error of Faust, which is in the lines above; nothing was acknowledged, "
                "so start it again."
            ) from end


def _app(role: str, settings: Settings, member: str) -> faust.App:
    security = settings.security
    credentials = None
    if security.protocol.startswith("SASL"):
        credentials = faust.SASLCredentials(
            mechanism=security.mechanism, username=security.username, password=security.password
        )
    return faust.App(
        f"driftloop-{role}-{settings.topic_prefix}{settings.stream}",
        broker=[f"kafka://{address}" for address in settings.kafka.split(",")],
        broker_credentials=credentials,
        store="memory://",
        key_serializer="raw",
        value_serializer="raw",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        stream_buffer_maxsize=512,
        stream_wait_empty=False,
        agent_supervisor=mode.CrashingSupervisor,
        consumer_group_instance_id=member,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=kafka.MAX_MESSAGE,
        broker_commit_interval=1.0,
        broker_max_poll_interval=3600.0,
    )


def _agent(app: faust.App, topics: Sequence[str], handler: Handler, batch: int, within: float) -> None:
    # One thread for the handler: batches never overlap, and the event loop keeps its heartbeats.
    pool = ThreadPoolExecutor(1, thread_name_prefix="handler")
    opened = threading.Event()
    # Held while a batch is under way; the shutdown takes it and keeps it, so no batch is cut in two.
    turn = asyncio.Lock()

    def work(records: Sequence[Record]) -> None:
        if not opened.is_set():
            handler.open()
            opened.set()
        handler.handle(records)

    async def process(stream: Any) -> None:
        async for events in stream.noack_take(batch, within=within):
            messages = [event.message for event in events]
            records = [Record(m.topic, m.partition, m.offset, m.key, m.value) for m in messages]
            async with turn:
                try:
                    await asyncio.get_running_loop().run_in_executor(pool, work, records)
                except Stopped:
                    return
                except Exception as error:
                    _leave(error)
                for event in events:
                    await stream.ack(event)

    app.agent(app.topic(*topics, key_serializer="raw", value_serializer="raw"), concurrency=1)(process)

    @app.on_before_shutdown.connect(weak=False)  # type: ignore[untyped-decorator]
    async def stopping(_app: Any, **_: Any) -> None:
        handler.close()
        await turn.acquire()


def _leave(error: Exception) -> NoReturn:
    """End the process here: Faust's own way down would first wait for what is buffered, and commit."""
    if not isinstance(error, DriftloopError):
        logging.getLogger(__name__).error("the batch failed", exc_info=error)
    sys.stderr.write(f"driftloop: {error}\n")
    sys.stderr.flush()
    os._exit(error.exit_code if isinstance(error, DriftloopError) else 1)
