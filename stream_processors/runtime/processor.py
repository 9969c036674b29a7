"""The loop that both processors use: a batch is acknowledged only when its results are safe.

Faust reads raw bytes, and what its channel holds is taken in batches without being acknowledged. A batch goes through
the steps of a handler (`steps`), and the last one returns when everything that was written has been confirmed by its
store; only then does the batch count as handled and, at most a second later, are its offsets committed. Any exception
ends the process with nothing more committed, and whoever started it starts it again: what was under way is read once
more. So does a stall: an agent of Faust can stop taking messages in silence (faust-streaming/faust, issues 175, 323,
502, 523), and `Progress` sees that messages wait. And so does a message that was left out: see `positions`.

Processes with the same role share the partitions. Before a partition changes hands what is under way is finished and
committed, and what was only buffered is dropped: its new owner reads it. A process that is told to stop leaves its
group, so the others take over at once; one that dies is a static member, and gets its partitions back when it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

import faust

from driftloop.core.errors import DriftloopError, ShutdownRequested
from driftloop.core.kafka import clients
from driftloop.core.observability import logs, tracing
from driftloop.core.settings import Settings
from driftloop.core.topics import Topic, name
from stream_processors.runtime.circuit_breaker import CircuitBreaker
from stream_processors.runtime.dead_letters import Record
from stream_processors.runtime.faust_app import Worker, exit_process, make_app, take_batch
from stream_processors.runtime.liveness import FIRST, LivenessMonitor
from stream_processors.runtime.offsets import OffsetTracker
from stream_processors.runtime.pipeline import StagePipeline, Step

log = logging.getLogger(__name__)

COMMIT_EVERY = 1.0
"""Seconds between two commits."""
HANDOVER = 30.0
"""Most seconds that a rebalance waits for the batches under way."""


class BatchHandler(Protocol):
    """What a processor does with a batch."""

    @property
    def steps(self) -> Sequence[Step]:
        """What is done with a batch: the first takes its records, each other one what the one before it has returned.

        The last returns the number of the batch's dead letters, and only when every result is confirmed. See
        `stream_processors.runtime.pipeline.StagePipeline` for which of them may be at work at once.
        """
        ...

    def open(self) -> None:
        """Connect to what is needed, and wait until a batch can be handled; called once, in the first step's thread."""
        ...

    def close(self) -> None:
        """Stop waiting for anything: `open` raises `Stopped`; called from another thread."""
        ...


def run(
    role: str,
    settings: Settings,
    topics: Sequence[Topic],
    handler: BatchHandler,
    *,
    member: str,
    batch: int,
    within: float,
) -> None:
    """Read ``topics`` in the group of ``role`` until SIGTERM or SIGINT, then leave the group and return.

    A batch that fails ends the whole process at once with one line on standard error: status 2 for a
    `DriftloopError`, 1 for anything else. Start it again and the batch is read once more.
    """
    member = member.replace("{host}", socket.gethostname())
    app = make_app(role, settings, member, batch, within)
    with LivenessMonitor(role, settings, app.conf.id, _stalled) as seen:
        breaker = CircuitBreaker(settings.breaker)
        names = [name(settings, topic) for topic in topics]
        _agent(app, names, handler, OffsetTracker(settings, role, names), seen, breaker, batch)
        worker = Worker(app, redirect_stdouts=False, quiet=True)
        worker.spinner = None  # it writes cursor codes, into logs as well
        try:
            worker.execute_from_commandline()
        except SystemExit as end:
            if end.code:
                raise DriftloopError(
                    f"The {role} was ended by an error of Faust, which is in the lines above; nothing was "
                    "acknowledged, so start it again."
                ) from end
    clients.leave_group(settings, app.conf.id, member)


def _agent(
    app: faust.App,
    topics: Sequence[str],
    handler: BatchHandler,
    positions: OffsetTracker,
    progress: LivenessMonitor,
    breaker: CircuitBreaker,
    batch: int,
) -> None:
    line = StagePipeline([positions.check, *handler.steps])
    door = asyncio.Lock()
    """Held by whoever lets a batch in, or none: a rebalance while it waits for those under way, the end for good."""
    committing = asyncio.Lock()
    opened = False
    handed_over = -1
    """Generation of the group whose partitions have been given back."""
    committed: dict[Any, int] = {}

    def current(event: Any) -> bool:
        """Whether the event's partition is still ours: if not, whoever owns it now reads the event again."""
        return bool(app.consumer_generation_id == event.message.generation_id != handed_over)

    async def process(stream: Any) -> None:
        nonlocal opened
        channel = aiter(stream.channel)  # the agent's stream would wake four tasks for each message
        while True:
            try:
                taken = await take_batch(channel, batch)
                if not opened:
                    progress.wait(FIRST)  # for any time: there may be no model yet
                    await line.run_first(handler.open)
                    opened = True
                    # A full collection walks through all that was imported and loaded: half a second in which nothing
                    # else is done.
                    gc.collect()
                    gc.freeze()
                    progress.wait("")
                if breaker.open:
                    await asyncio.sleep(breaker.pause)
                async with door:
                    events = [event for event in taken if current(event)]
                    if events:
                        await line.enter(handle(events))
            except (ShutdownRequested, StopAsyncIteration):  # the latter is put into the channel when Faust stops
                return
            except Exception as error:
                exit_process(error)

    async def handle(events: Sequence[Any]) -> None:
        """Take a batch through the steps, and count it as handled."""
        records = [_record(event.message) for event in events]
        progress.begins()
        with logs.log_context(batch=_span(records)):
            try:
                dead = await line.process(records)
            except ShutdownRequested:
                return
            except Exception as error:
                exit_process(error)
            log.info("%d messages handled, %d of them dead letters", len(records), dead)
        progress.handled(len(records), dead)
        _count(breaker, len(records), dead, progress)
        # All are of one generation; what took longer than a handover is not ours any more.
        if current(events[0]):
            positions.handled(records)

    async def commit() -> None:
        """Tell the broker how far the batches have come that are through."""
        nonlocal committed
        async with committing:
            reached = positions.reached
            if reached and reached != committed and await app.consumer._commit(reached):
                committed = reached

    # Without acknowledgements Faust commits nothing.
    app.agent(app.topic(*topics, key_serializer="raw", value_serializer="raw", acks=False), concurrency=1)(process)

    @app.timer(COMMIT_EVERY)  # type: ignore[untyped-decorator]
    async def every_second() -> None:
        await commit()

    @app.on_partitions_revoked.connect(weak=False)  # type: ignore[untyped-decorator]
    async def handing_over(_app: Any, _revoked: Any, **_: Any) -> None:
        nonlocal handed_over
        progress.owns(None)
        with contextlib.suppress(TimeoutError):  # then a batch is read a second time, by the partition's new owner
            async with asyncio.timeout(HANDOVER), door:
                await line.drain()
                handed_over = app.consumer_generation_id
                await commit()
        positions.forget()

    # Told by Faust, not asked of it: its consumer, touched first from another thread, would be made there, and broken.
    @app.on_partitions_assigned.connect(weak=False)  # type: ignore[untyped-decorator]
    async def taken_over(_app: Any, assigned: Any, **_: Any) -> None:
        positions.forget()
        progress.owns(assigned)

    @app.on_before_shutdown.connect(weak=False)  # type: ignore[untyped-decorator]
    async def stopping(_app: Any, **_: Any) -> None:
        handler.close()
        await door.acquire()
        await line.drain()
        await commit()


def _record(message: Any) -> Record:
    headers = tuple(message.headers or ()) if tracing.enabled() else ()
    return Record(message.topic, message.partition, message.offset, message.key, message.value, headers)


def _span(records: Sequence[Record]) -> str:
    """What a batch is called in the log: the offsets of each of its partitions."""
    spans: dict[str, list[int]] = {}
    for record in records:
        spans.setdefault(f"{record.topic}-{record.partition}", []).append(record.offset)
    return ",".join(f"{partition}@{offsets[0]}-{offsets[-1]}" for partition, offsets in spans.items())


def _count(breaker: CircuitBreaker, records: int, dead: int, progress: LivenessMonitor) -> None:
    """Tell the breaker of a batch, and the world when it opens, tries in vain, or closes."""
    before = breaker.open
    breaker.count(records, dead)
    if before or breaker.open:
        progress.wait(str(breaker) if breaker.open else "")
        log.error("%s", breaker if breaker.open else "messages can be processed again")


def _stalled(words: str) -> NoReturn:
    """End a process that takes nothing though there is something: whoever started it starts it again."""
    exit_process(DriftloopError(f"{words}: this process ends, so that it is started again; nothing was acknowledged."))
