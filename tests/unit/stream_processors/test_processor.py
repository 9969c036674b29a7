"""Batch processor: what is admitted, committed and given back, on an event loop without a broker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition

from driftloop.core.errors import ShutdownRequested
from driftloop.core.settings import Settings, TimingSettings
from stream_processors.runtime import processor as processors
from stream_processors.runtime.liveness import LivenessMonitor
from stream_processors.runtime.offsets import OffsetTracker
from stream_processors.runtime.processor import BatchProcessor

WAIT = 10.0
EVENTS = TopicPartition("events", 0)


class Offsets(OffsetTracker):
    """Offsets without the check for left-out messages, which asks the broker."""

    def check(self, batch: Any) -> Any:
        return batch


class Handler:
    """Handler whose only step waits until the test lets it go."""

    def __init__(self) -> None:
        self.entered, self.free = threading.Event(), threading.Event()
        self.free.set()
        self.handled: list[list[int]] = []
        self.closed = False

    @property
    def steps(self) -> Any:
        return (self.handle,)

    def handle(self, records: Any) -> int:
        self.entered.set()
        assert self.free.wait(WAIT)
        self.handled.append([record.offset for record in records])
        return 0

    def open(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class App:
    """Part of Faust's app that a batch processor uses: the generation of the group, and the commit."""

    def __init__(self) -> None:
        self.consumer_generation_id = 1
        self.consumer = SimpleNamespace(_commit=self.commit)
        self.commits: list[dict[Any, int]] = []
        self.accepts = True
        self.committed = asyncio.Event()

    async def commit(self, offsets: dict[Any, int]) -> bool:
        self.commits.append(offsets)
        return self.accepts


def events(*offsets: int, generation: int = 1) -> list[Any]:
    return [
        SimpleNamespace(
            message=SimpleNamespace(
                topic="events", partition=0, offset=offset, key=None, value=b"", headers=None, generation_id=generation
            )
        )
        for offset in offsets
    ]


def run(story: Callable[[BatchProcessor, App, Handler], Coroutine[Any, Any, None]], handover: float = WAIT) -> None:
    async def told() -> None:
        settings = Settings(timing=TimingSettings(handover_seconds=handover))
        app, handler = App(), Handler()
        liveness = LivenessMonitor("scorer", settings, "group", print)
        offsets = Offsets(settings, "scorer", ["events"])
        await story(BatchProcessor(app, settings, handler, offsets, liveness, 8), app, handler)

    asyncio.run(told())


async def entered(handler: Handler) -> None:
    assert await asyncio.to_thread(handler.entered.wait, WAIT)


def test_handled_offsets_are_committed_once() -> None:
    async def story(processor: BatchProcessor, app: App, handler: Handler) -> None:
        await processor.commit()
        assert app.commits == [], "nothing is handled yet"
        await processor.admit(events(0, 1, 2))
        await processor._pipeline.drain()
        app.accepts = False
        await processor.commit()
        app.accepts = True
        await processor.commit()
        await processor.commit()
        assert app.commits == [{EVENTS: 3}, {EVENTS: 3}], "again after a refusal, and not after that"

    run(story)


def test_a_batch_in_flight_is_not_committed() -> None:
    async def story(processor: BatchProcessor, app: App, handler: Handler) -> None:
        handler.free.clear()
        await processor.admit(events(0, 1))
        await entered(handler)
        await processor.commit()
        assert app.commits == []
        handler.free.set()
        await processor._pipeline.drain()
        await processor.commit()
        assert app.commits == [{EVENTS: 2}]

    run(story)


def test_events_of_another_generation_are_dropped() -> None:
    async def story(processor: BatchProcessor, app: App, handler: Handler) -> None:
        await processor.admit([*events(0, generation=0), *events(1), *events(2, generation=2)])
        await processor._pipeline.drain()
        assert handler.handled == [[1]]

    run(story)


def test_rebalance_commits_batches_in_flight() -> None:
    """Rebalance waits for the batch, and drops events that were only buffered."""

    async def story(processor: BatchProcessor, app: App, handler: Handler) -> None:
        handler.free.clear()
        await processor.admit(events(0, 1))
        await entered(handler)
        revoked = asyncio.create_task(processor.on_revoked(app, []))
        await asyncio.sleep(0.05)
        late = asyncio.create_task(processor.admit(events(2)))
        await asyncio.sleep(0.05)
        assert not revoked.done() and app.commits == []
        handler.free.set()
        await revoked
        await late
        await processor._pipeline.drain()
        assert app.commits == [{EVENTS: 2}] and handler.handled == [[0, 1]], "what was only buffered is dropped"
        assert processor._offsets.reached == {}, "the broker's offsets count now"
        app.consumer_generation_id = 2
        await processor.on_assigned(app, [EVENTS])
        await processor.admit(events(2, generation=2))
        await processor._pipeline.drain()
        assert handler.handled[1:] == [[2]]

    run(story)


def test_batch_outlasting_handover_is_not_committed() -> None:
    async def story(processor: BatchProcessor, app: App, handler: Handler) -> None:
        handler.free.clear()
        await processor.admit(events(0, 1))
        await entered(handler)
        await processor.on_revoked(app, [])
        assert app.commits == []
        app.consumer_generation_id = 2
        handler.free.set()
        await processor._pipeline.drain()
        await processor.commit()
        assert handler.handled == [[0, 1]] and app.commits == [], "its new owner reads the batch again"

    run(story, handover=0.05)


def test_shutdown_commits_and_admits_no_batch_again() -> None:
    async def story(processor: BatchProcessor, app: App, handler: Handler) -> None:
        handler.free.clear()
        await processor.admit(events(0))
        await entered(handler)
        stopped = asyncio.create_task(processor.shutdown(app))
        await asyncio.sleep(0.05)
        assert handler.closed and not stopped.done() and not app.committed.is_set()
        handler.free.set()
        await stopped
        assert app.commits == [{EVENTS: 1}] and app.committed.is_set()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(processor.admit(events(1)), 0.1)
        assert handler.handled == [[0]]

    run(story)


@pytest.mark.parametrize("end", [ShutdownRequested, StopAsyncIteration])
def test_requested_shutdown_ends_processing_loop(end: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [events(0), events(1)]

    async def take(_channel: Any, most: int) -> Any:
        assert most == 8
        if not batches:
            raise end
        return batches.pop(0)

    class Channel:
        def __aiter__(self) -> Channel:
            return self

        async def __anext__(self) -> Any:
            raise AssertionError("events are taken in batches")

    monkeypatch.setattr(processors, "take_batch", take)

    async def story(processor: BatchProcessor, app: App, handler: Handler) -> None:
        await processor.process(SimpleNamespace(channel=Channel()))
        await processor._pipeline.drain()
        assert handler.handled == [[0], [1]]

    run(story)


def test_step_error_ends_process_without_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(BaseException):
        pass

    def end(error: Exception) -> None:
        ends.append(error)
        raise Ended

    ends: list[Exception] = []
    monkeypatch.setattr(processors, "exit_process", end)

    async def story(processor: BatchProcessor, app: App, handler: Handler) -> None:
        def fail(records: Any) -> int:
            raise RuntimeError("no model")

        processor._pipeline._steps = [fail]
        with pytest.raises(Ended):
            await processor.handle(events(0))
        await processor.commit()
        assert [str(error) for error in ends] == ["no model"] and app.commits == []

    run(story)
