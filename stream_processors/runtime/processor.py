"""Batch loop of the scorer and the monitor: a batch counts only when its results are safe.

Faust reads raw bytes. A `BatchProcessor` takes what Faust has buffered in batches, without acknowledging it, and
carries each batch through the steps of a handler (`stream_processors.runtime.pipeline`). The last step returns when
every store has confirmed what was written. Only then does the batch count as handled, and its offsets are committed at
most a second later.

Three faults end the process with nothing more committed. Its supervisor starts it again, and the batches that were in
flight are read once more:

- Any exception in a step.
- A stall: an agent of Faust can stop taking messages without an error (faust-streaming/faust, issues 175, 323, 502,
  523). `stream_processors.runtime.liveness` sees that messages wait.
- A message that was left out: see `stream_processors.runtime.offsets`.

Processes with the same role share the partitions. Before a partition changes hands, the batches in flight are finished
and committed. What was only buffered is dropped, and the new owner reads it. A process that is told to stop leaves its
group, so the others take over immediately. A process that dies is a static member: it gets its partitions back when it
returns.
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
from stream_processors.runtime.liveness import FIRST_BATCH, LivenessMonitor
from stream_processors.runtime.offsets import OffsetTracker
from stream_processors.runtime.pipeline import StagePipeline, Step

log = logging.getLogger(__name__)


class BatchHandler(Protocol):
    """Work that a processor does with a batch."""

    @property
    def steps(self) -> Sequence[Step]:
        """Functions that a batch passes in order.

        The first takes the records, and each other one takes what the one before it returned. The last returns the
        number of dead letters in the batch, once every result is confirmed. `StagePipeline` describes which steps
        may run in parallel.
        """
        ...

    def open(self) -> None:
        """Connect to the stores, and wait until a batch can be handled. Called once, in the first step's thread."""
        ...

    def close(self) -> None:
        """Stop waiting: `open` then raises `ShutdownRequested`. Called from another thread."""
        ...


def run(
    role: str,
    settings: Settings,
    topics: Sequence[Topic],
    handler: BatchHandler,
    *,
    member: str,
    batch: int,
    max_wait: float,
) -> None:
    """Read the topics in the consumer group of a role until SIGTERM or SIGINT, then leave the group and return.

    A batch that fails ends the whole process immediately with one line on standard error. The exit code is 2 for a
    `DriftloopError` and 1 for any other exception. The batch is read once more after a restart.

    Args:
        role: Scorer or monitor.
        settings: Settings of the process.
        topics: Topics to read.
        handler: Work to do with each batch.
        member: Name of the static group member; ``{host}`` stands for the machine's name.
        batch: Maximum number of messages in a batch.
        max_wait: Maximum seconds that the broker gathers messages while they come.

    Raises:
        DriftloopError: Faust ended with an error.
    """
    member = member.replace("{host}", socket.gethostname())
    app = make_app(role, settings, member, batch, max_wait)
    with LivenessMonitor(role, settings, app.conf.id, _exit_stalled) as liveness:
        names = [name(settings, topic) for topic in topics]
        processor = BatchProcessor(app, settings, handler, OffsetTracker(settings, role, names), liveness, batch)
        processor.register(names)
        worker = Worker(app, redirect_stdouts=False, quiet=True)
        worker.spinner = None  # it writes cursor codes, into logs as well
        try:
            worker.execute_from_commandline()
        except SystemExit as end:
            if end.code:
                raise DriftloopError(
                    f"Faust ended the {role} with an error, which is in the lines above. Nothing was acknowledged: "
                    "start it again."
                ) from end
    clients.remove_group_member(settings, app.conf.id, member)


class BatchProcessor:
    """The life of every batch of one process, from Faust's buffer to the committed offset.

    1. `process` takes what Faust has buffered.
    2. `admit` drops what this process does not own any more, and starts the rest when the first step is free.
    3. `handle` carries the batch through the steps, and marks its offsets as handled.
    4. `commit` sends the handled offsets to the broker, every second.

    Before partitions change hands, `on_revoked` finishes and commits the batches in flight. `on_assigned` begins with
    the new partitions. `shutdown` finishes and commits for good.

    All methods run on Faust's event loop. The steps run in threads of their own.

    Args:
        app: The Faust app.
        settings: Settings of the process.
        handler: Work to do with each batch.
        offsets: Offsets that were handled.
        liveness: Receives the progress.
        size: Maximum number of messages in a batch.
    """

    def __init__(
        self,
        app: faust.App,
        settings: Settings,
        handler: BatchHandler,
        offsets: OffsetTracker,
        liveness: LivenessMonitor,
        size: int,
    ) -> None:
        self._app = app
        self._timing = settings.timing
        self._handler = handler
        self._offsets = offsets
        self._liveness = liveness
        self._size = size
        self._breaker = CircuitBreaker(settings.dead_letter_limit, self._timing.dead_letter_pause_seconds)
        self._pipeline = StagePipeline([offsets.check, *handler.steps])
        # Held while a batch is admitted, by a rebalance while batches in flight are finished, and for good by shutdown.
        self._admission = asyncio.Lock()
        self._committing = asyncio.Lock()
        self._committed: dict[Any, int] = {}
        self._opened = False
        # Generation of the group whose partitions have been given back.
        self._revoked_generation = -1

    def register(self, topics: Sequence[str]) -> None:
        """Connect to Faust: one agent for all topics, the timer of the commits, and the hooks."""
        app = self._app
        # Without acknowledgements Faust commits nothing.
        source = app.topic(*topics, key_serializer="raw", value_serializer="raw", acks=False)
        app.agent(source, concurrency=1)(self.process)
        app.timer(self._timing.commit_seconds)(self.commit)
        # A weak reference to a bound method would be gone immediately.
        app.on_partitions_revoked.connect(self.on_revoked, weak=False)
        app.on_partitions_assigned.connect(self.on_assigned, weak=False)
        app.on_before_shutdown.connect(self.shutdown, weak=False)

    async def process(self, stream: Any) -> None:
        """Take batches from Faust's channel until the process is asked to end."""
        channel = aiter(stream.channel)  # the agent's stream would wake four tasks for each message
        while True:
            try:
                events = await take_batch(channel, self._size)
                if not self._opened:
                    await self._open()
                if self._breaker.open:
                    await asyncio.sleep(self._breaker.pause)
                await self.admit(events)
            except (ShutdownRequested, StopAsyncIteration):  # the latter is put into the channel when Faust stops
                return
            except Exception as error:
                exit_process(error)

    async def _open(self) -> None:
        """Open the handler before its first batch."""
        self._liveness.wait(FIRST_BATCH)  # for any time: there may be no model yet
        await self._pipeline.run_first(self._handler.open)
        self._opened = True
        # A full collection walks through all that was imported and loaded, and blocks the process for half a second.
        gc.collect()
        gc.freeze()
        self._liveness.wait("")

    async def admit(self, events: Sequence[Any]) -> None:
        """Start a batch with those events whose partitions are still owned; return when the first step has it."""
        async with self._admission:
            owned = [event for event in events if self._is_owned(event)]
            if owned:
                await self._pipeline.enter(self.handle(owned))

    async def handle(self, events: Sequence[Any]) -> None:
        """Carry a batch through its life.

        1. Pass it through all steps; its results are confirmed afterwards.
        2. Count it, for the health check and for the circuit breaker.
        3. Mark its offsets as handled, unless the partitions have changed hands meanwhile.
        """
        records = [_record(event.message) for event in events]
        self._liveness.batch_started()
        with logs.log_context(batch=_describe_offsets(records)):
            try:
                dead = await self._pipeline.process(records)
            except ShutdownRequested:
                return
            except Exception as error:
                exit_process(error)
            log.info("%d messages handled, %d of them dead letters", len(records), dead)

        self._liveness.batch_handled(len(records), dead)
        self._count_dead_letters(len(records), dead)

        # All events are of one generation. A batch that took longer than a handover belongs to the new owner.
        if self._is_owned(events[0]):
            self._offsets.handled(records)

    async def commit(self) -> None:
        """Send the handled offsets to the broker.

        1. Wait for a commit that is under way.
        2. Take the offsets of all batches that were handled so far.
        3. Send them, unless they are the ones that were sent last.
        4. Remember them, if the broker has taken them.
        """
        async with self._committing:
            handled = self._offsets.reached
            if handled and handled != self._committed and await self._app.consumer._commit(handled):
                self._committed = handled

    async def on_revoked(self, _app: Any, _revoked: Any, **_: Any) -> None:
        """Give the partitions back, before the group assigns them anew.

        1. Report that no partition is owned.
        2. Admit no further batch, and wait for those in flight.
        3. Mark the generation as given back: what Faust has buffered of it is dropped.
        4. Commit.
        5. Forget the offsets: the broker's count from now on.

        Steps 2 to 4 end after `handover_seconds`. Then a batch is read a second time, by the partition's new owner.

        Args:
            _app: The Faust app.
            _revoked: Partitions that change hands.
        """
        self._liveness.owns(None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timing.handover_seconds), self._admission:
                await self._pipeline.drain()
                self._revoked_generation = self._app.consumer_generation_id
                await self.commit()
        self._offsets.forget()

    async def on_assigned(self, _app: Any, assigned: Any, **_: Any) -> None:
        """Begin with the partitions that the group has assigned.

        The liveness monitor gets them from here. Its thread must not ask Faust's consumer for them: the first access
        creates the consumer, and it would belong to the wrong thread.

        Args:
            _app: The Faust app.
            assigned: Partitions that this process owns now.
        """
        self._offsets.forget()
        self._liveness.owns(assigned)

    async def shutdown(self, _app: Any, **_: Any) -> None:
        """Finish and commit what is in flight, and admit no batch again.

        1. Stop the handler's waiting, as for a first model.
        2. Take the admission lock, and keep it.
        3. Wait for the batches in flight.
        4. Commit, and let a rebalance that has begun go on.
        """
        self._handler.close()
        await self._admission.acquire()
        await self._pipeline.drain()
        await self.commit()
        self._app.committed.set()

    def _is_owned(self, event: Any) -> bool:
        """Return True if the event's partition is still this process's; otherwise its new owner reads the event."""
        generation = event.message.generation_id
        return bool(self._app.consumer_generation_id == generation != self._revoked_generation)

    def _count_dead_letters(self, records: int, dead: int) -> None:
        """Count a batch for the circuit breaker, and report when it opens, tries in vain, or closes."""
        breaker = self._breaker
        was_open = breaker.open
        breaker.count(records, dead)
        if was_open or breaker.open:
            self._liveness.wait(str(breaker) if breaker.open else "")
            log.error("%s", breaker if breaker.open else "messages can be processed again")


def _record(message: Any) -> Record:
    headers = tuple(message.headers or ()) if tracing.enabled() else ()
    return Record(message.topic, message.partition, message.offset, message.key, message.value, headers)


def _describe_offsets(records: Sequence[Record]) -> str:
    """Return the name of a batch in the log: the first and last offset of each of its partitions."""
    spans: dict[str, list[int]] = {}
    for record in records:
        spans.setdefault(f"{record.topic}-{record.partition}", []).append(record.offset)
    return ",".join(f"{partition}@{offsets[0]}-{offsets[-1]}" for partition, offsets in spans.items())


def _exit_stalled(reason: str) -> NoReturn:
    """End a process that takes no messages although some wait; its supervisor starts it again."""
    exit_process(DriftloopError(f"{reason}. This process ends, so that it is started again. Nothing was acknowledged."))
