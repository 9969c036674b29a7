"""Faust app of both processors: messages of the topics go into one channel, and no other part of Faust is used."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Generator
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

import faust
import mode
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError
from faust.tables import TableManager
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer

from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.kafka.auth import access_denied, tls_context
from driftloop.core.observability import logs, tracing
from driftloop.core.settings import KafkaSecurity, Settings

log = logging.getLogger(__name__)

MESSAGE_BYTES = 256
"""Approximate bytes of a message, from which the bytes of a batch are computed."""
IDLE_FETCH = (1, 1500)
"""`(fetch.min.bytes, fetch.max.wait.ms)` while the topics are idle: Faust's defaults."""


def make_app(role: str, settings: Settings, member: str, batch: int, max_wait: float) -> faust.App:
    """Return an app in the consumer group of a role.

    Args:
        role: Scorer or monitor.
        settings: Settings of the process.
        member: Name of the static group member.
        batch: Number of messages that the broker gathers for an answer while messages come.
        max_wait: Maximum seconds that it gathers them.
    """
    return _App(
        settings,
        (batch * MESSAGE_BYTES, round(1000 * max_wait)),
        clients.group_id(role, settings),
        broker=[f"kafka://{address}" for address in settings.kafka.split(",")],
        broker_credentials=_credentials(settings.security),
        store="memory://",
        key_serializer="raw",
        value_serializer="raw",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        stream_buffer_maxsize=512,
        stream_wait_empty=False,
        agent_supervisor=mode.CrashingSupervisor,
        TableManager=_NoTables,
        consumer_group_instance_id=member,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=clients.MAX_MESSAGE,
        broker_session_timeout=settings.timing.session_seconds,
        broker_heartbeat_interval=settings.timing.heartbeat_seconds,
        broker_max_poll_interval=3600.0,
    )


class _App(faust.App):  # type: ignore[misc]  # Faust's types are not looked at
    """Faust's app, with its own way to change partitions, and an immediate end if the broker refuses access.

    Faust's app stops fetching only the partitions that it had. A separate task then seeks the committed offsets and
    resumes. The next rebalance may overtake that task, and what is fetched in between is left out. Here all of it is
    done before the group can change again.
    """

    def __init__(self, settings: Settings, busy_fetch: tuple[int, int], *arguments: Any, **options: Any) -> None:
        self._settings = settings
        self.busy_fetch = busy_fetch
        """`(fetch.min.bytes, fetch.max.wait.ms)` while messages come."""
        self.committed = asyncio.Event()
        """Set when a process that ends has committed for the last time."""
        super().__init__(*arguments, **options)

    def _new_transport(self) -> Any:
        transport = super()._new_transport()
        transport.Consumer = _Consumer
        return transport

    def _create_directories(self) -> None:
        """Create no directories: they are for tables, and a process that is killed would leave them behind."""

    async def _on_partitions_revoked(self, revoked: Any) -> None:
        self.consumer.stop_flow()
        self.flow_control.suspend()
        await self._wait_for_last_commit()
        await super()._on_partitions_revoked(revoked)

    async def _on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
        await self._wait_for_last_commit()
        await super()._on_partitions_assigned(assigned, generation_id)
        try:
            if not self.should_stop:
                await self.wait(self.consumer.perform_seek())
        except Exception as error:  # aiokafka would only log it, and no further message would come
            if not self.should_stop:
                await self.crash(error)
        if self.should_stop:
            return
        self.consumer.resume_partitions(assigned)
        self.flow_control.resume()
        self.consumer.resume_flow()
        await self._fetcher.maybe_start()

    async def _wait_for_last_commit(self) -> None:
        """Let a process that ends commit before the group changes: Faust would close the consumer now."""
        if self.should_stop:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.timing.handover_seconds):
                    await self.committed.wait()

    def on_rebalance_return(self) -> None:
        """End the rebalance here: no table is recovered after it."""
        super().on_rebalance_return()
        self.on_rebalance_end()

    def _crash(self, reason: BaseException) -> None:
        """End the process immediately if the broker refuses access: Faust's own shutdown would wait for the broker."""
        if isinstance(reason, TopicAuthorizationFailedError | GroupAuthorizationFailedError):
            exit_process(access_denied(self._settings, f"read {reason.args[0] if reason.args else 'its topics'}"))
        super()._crash(reason)


class _Thread(AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's consumer thread, for which the broker gathers a batch, and which always seeks the committed offsets.

    Faust lets the broker answer with the first message. A stream of some hundred messages a second then comes one by
    one, and handling an answer in three threads costs more than handling a message.
    """

    async def seek_to_committed(self) -> Any:
        return await self.call_thread(self._seek)

    async def _seek(self) -> Any:
        """Seek the committed offsets, and the beginning of a partition without one: aiokafka does not move there."""
        consumer = self._ensure_consumer()
        if not consumer.assignment():
            return {}
        committed = await consumer.seek_to_committed()
        uncommitted = [partition for partition, offset in committed.items() if not offset]
        if uncommitted:
            await consumer.seek_to_beginning(*uncommitted)
        return committed

    async def _fetch_records(self, consumer: Any, *arguments: Any, **options: Any) -> Any:
        records = await super()._fetch_records(consumer, *arguments, **options)
        fetcher = consumer._fetcher
        fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms = self.app.busy_fetch if records else IDLE_FETCH
        return records


class _Consumer(Consumer):  # type: ignore[misc]
    """Faust's consumer, which puts a message into the channel immediately if there is room for it.

    Faust wakes four tasks for each message: to put it there, and to check for a suspended flow and for the end.
    """

    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    async def wait_first(self, *waited: Any, timeout: Any = None) -> Any:
        first, *rest = waited
        if not rest:  # the call is not about a message
            return await super().wait_first(first, timeout=timeout)
        try:
            first = _ResumedCoroutine(first, first.send(None))
        except BaseException as end:
            for other in rest:
                other.close()
            if isinstance(end, StopIteration):
                return None
            raise
        return await super().wait_first(first, *rest, timeout=timeout)


class _ResumedCoroutine:
    """Awaitable that resumes a coroutine already advanced to its first `await`."""

    def __init__(self, coroutine: Any, waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        waits_for = self._waits_for
        while True:
            try:
                step = partial(self._coroutine.send, (yield waits_for))
            except BaseException as error:
                step = partial(self._coroutine.throw, error)
            try:
                waits_for = step()
            except StopIteration as end:
                return end.value


class Worker(faust.Worker):  # type: ignore[misc]
    """Faust's worker, without its own log set-up, and with a faster end.

    `driftloop.core.observability.logs` has already set up the log.
    """

    def _setup_logging(self) -> None:
        pass

    async def _sentinel_task(self) -> None:
        """Wait for the tasks that were cancelled, as the last step of the end; Faust waits a whole second."""
        cancelled = asyncio.all_tasks() - {asyncio.current_task()}
        if cancelled:
            await asyncio.wait(cancelled, timeout=1.0)


class _NoTables(TableManager):  # type: ignore[misc]
    """Faust's table manager, which joins the group when the topics are known.

    Faust waits a second for tables and recovers them, but the processors have none.
    """

    async def on_start(self) -> None:
        while not self.app.topics and not self.should_stop:
            await asyncio.sleep(0.01)
        if not self.should_stop:
            await self._update_channels()


def _credentials(security: KafkaSecurity) -> Any:
    """Return Faust's credentials for the broker; `None` if the broker asks for none."""
    tls = tls_context(security)
    if security.protocol.startswith("SASL"):
        return faust.SASLCredentials(
            mechanism=security.mechanism, username=security.username, password=security.password, ssl_context=tls
        )
    return None if tls is None else faust.SSLCredentials(tls)


async def take_batch(channel: Any, most: int) -> list[Any]:
    """Return the events that a channel of Faust holds; wait for the first if it holds none.

    Args:
        channel: Faust's channel.
        most: Maximum number of events.
    """
    queue = channel.queue
    events = [await queue.get()]
    while len(events) < most and not queue.empty():
        events.append(queue.get_nowait())
    return events


def exit_process(error: Exception) -> NoReturn:
    """End the process immediately: Faust's own shutdown would first wait for what is buffered, and commit."""
    if not isinstance(error, DriftloopError):
        log.error("the batch failed", exc_info=error)
    logs.print_error(str(error))
    tracing.close()
    os._exit(error.exit_code if isinstance(error, DriftloopError) else 1)
