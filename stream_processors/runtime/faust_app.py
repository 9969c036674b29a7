"""Faust as both processors use it: one topic's messages into one channel, and nothing else that Faust can do."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Generator
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

SESSION = 20.0
"""Seconds without a heartbeat after which a process counts as dead and its partitions go to the others."""
HEARTBEAT = 1.0
"""Seconds between two heartbeats; with their answers comes the word that partitions are to change hands."""
SIZE = 256
"""Bytes of a message, about: to tell the broker how much a batch is."""
QUIET = (1, 1500)
"""What is asked for while nothing comes, as Faust does always: whatever comes, and after 1.5 s an answer anyway."""


def make_app(role: str, settings: Settings, member: str, batch: int, within: float) -> faust.App:
    """An app in the group of ``role``, whose static member ``member`` is.

    While messages come the broker is asked for ``batch`` of them, or for what there is after ``within`` seconds.
    """
    return _App(
        settings,
        (batch * SIZE, round(1000 * within)),
        clients.group(role, settings),
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
        broker_session_timeout=SESSION,
        broker_heartbeat_interval=HEARTBEAT,
        broker_max_poll_interval=3600.0,
    )


class _App(faust.App):  # type: ignore[misc]  # Faust's types are not looked at
    """Faust's, but for how partitions change hands, and its end where the broker refuses.

    Faust's stops fetching only for what it had; it goes back to what was committed, and on, in a task of its own, which
    the next rebalance may overtake. What is fetched in between is left out. Here all of it is done before the group can
    change again.
    """

    def __init__(self, settings: Settings, wanted: tuple[int, int], *arguments: Any, **options: Any) -> None:
        self._settings = settings
        self.wanted = wanted
        """Bytes that the broker waits for while messages come, and the most milliseconds that it does."""
        super().__init__(*arguments, **options)

    def _new_transport(self) -> Any:
        transport = super()._new_transport()
        transport.Consumer = _Consumer
        return transport

    def _create_directories(self) -> None:
        """None: they are for tables, and would be left by a process that is killed."""

    async def _on_partitions_revoked(self, revoked: Any) -> None:
        self.consumer.stop_flow()
        self.flow_control.suspend()
        await super()._on_partitions_revoked(revoked)

    async def _on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
        await super()._on_partitions_assigned(assigned, generation_id)
        try:
            if not self.should_stop:
                await self.wait(self.consumer.perform_seek())
        except Exception as error:  # aiokafka would write it into the log, and nothing more would come
            if not self.should_stop:
                await self.crash(error)
        if self.should_stop:
            return
        self.consumer.resume_partitions(assigned)
        self.flow_control.resume()
        self.consumer.resume_flow()
        await self._fetcher.maybe_start()

    def on_rebalance_return(self) -> None:
        """With that it is over: no table is recovered after it."""
        super().on_rebalance_return()
        self.on_rebalance_end()

    def _crash(self, reason: BaseException) -> None:
        """At once where the broker refuses: Faust's own way down would wait for the broker."""
        if isinstance(reason, TopicAuthorizationFailedError | GroupAuthorizationFailedError):
            exit_process(access_denied(self._settings, f"read {reason.args[0] if reason.args else 'its topics'}"))
        super()._crash(reason)


class _Thread(AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's, but that the broker gathers a batch while messages come, and that it always goes back.

    Faust's has the broker answer with the first message that there is: a stream of some hundred messages a second then
    comes one by one, and what is done for an answer, in three threads, costs more than what is done for a message.
    """

    async def seek_to_committed(self) -> Any:
        return await self.call_thread(self._go_back)

    async def _go_back(self) -> Any:
        """To what was committed, and to the beginning where nothing was: aiokafka stays where it is there."""
        consumer = self._ensure_consumer()
        if not consumer.assignment():
            return {}
        committed = await consumer.seek_to_committed()
        never = [partition for partition, offset in committed.items() if not offset]
        if never:
            await consumer.seek_to_beginning(*never)
        return committed

    async def _fetch_records(self, consumer: Any, *arguments: Any, **options: Any) -> Any:
        found = await super()._fetch_records(consumer, *arguments, **options)
        fetcher = consumer._fetcher
        fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms = self.app.wanted if found else QUIET
        return found


class _Consumer(Consumer):  # type: ignore[misc]
    """Faust's, but that a message which there is room for is put there at once.

    Faust's wakes four tasks for each: to put it there, and to see whether the flow is suspended or the end has come.
    """

    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    async def wait_first(self, *waited: Any, timeout: Any = None) -> Any:
        first, *rest = waited
        if not rest:  # it is not a message
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
    """The rest of a coroutine that waits for something already."""

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
    """Faust's, which leaves the log as `driftloop.core.observability.logs` has set it up, and the group as soon as it can."""

    def _setup_logging(self) -> None:
        pass

    async def _sentinel_task(self) -> None:
        """The last of it: where Faust's waits a second, this waits for the tasks that were cancelled."""
        cancelled = asyncio.all_tasks() - {asyncio.current_task()}
        if cancelled:
            await asyncio.wait(cancelled, timeout=1.0)


class _NoTables(TableManager):  # type: ignore[misc]
    """Faust's waits a second for tables, and recovers them; we have none, and join when the topics are known."""

    async def on_start(self) -> None:
        while not self.app.topics and not self.should_stop:
            await asyncio.sleep(0.01)
        if not self.should_stop:
            await self._update_channels()


def _credentials(security: KafkaSecurity) -> Any:
    """What Faust shows the broker; None for a broker that asks for nothing."""
    tls = tls_context(security)
    if security.protocol.startswith("SASL"):
        return faust.SASLCredentials(
            mechanism=security.mechanism, username=security.username, password=security.password, ssl_context=tls
        )
    return None if tls is None else faust.SSLCredentials(tls)


async def take_batch(channel: Any, most: int) -> list[Any]:
    """The events that a channel of Faust holds, ``most`` at most; where it holds none, the first that comes."""
    queue = channel.queue
    taken = [await queue.get()]
    while len(taken) < most and not queue.empty():
        taken.append(queue.get_nowait())
    return taken


def exit_process(error: Exception) -> NoReturn:
    """End the process here: Faust's own way down would first wait for what is buffered, and commit."""
    if not isinstance(error, DriftloopError):
        log.error("the batch failed", exc_info=error)
    logs.print_error(str(error))
    tracing.close()
    os._exit(error.exit_code if isinstance(error, DriftloopError) else 1)
