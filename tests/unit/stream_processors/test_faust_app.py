"""Faust app: events are taken from its channel without delay, each one once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from faust.transport.drivers.aiokafka import Consumer
from mode.utils.queues import FlowControlEvent, ThrowableQueue

from driftloop.core.settings import Settings, TimingSettings
from stream_processors.runtime.faust_app import Worker, _Consumer, _ResumedCoroutine, make_app, take_batch


def channel(*events: int) -> Any:
    queue: ThrowableQueue[int] = ThrowableQueue(flow_control=FlowControlEvent(initially_suspended=False))
    for event in events:
        queue.put_nowait(event)
    return SimpleNamespace(queue=queue)


def test_full_batch_leaves_remaining_events_queued() -> None:
    source = channel(*range(10))
    assert asyncio.run(take_batch(source, 4)) == [0, 1, 2, 3]
    assert source.queue.qsize() == 6


def test_partial_batch_is_taken_at_once() -> None:
    assert asyncio.run(take_batch(channel(1, 2), 4)) == [1, 2]


def test_empty_channel_waits_for_first_event() -> None:
    async def taken() -> list[int]:
        source = channel()
        asyncio.get_running_loop().call_later(0.05, source.queue.put_nowait, 1)
        async with asyncio.timeout(5):
            return await take_batch(source, 4)

    assert asyncio.run(taken()) == [1]


def test_an_error_thrown_into_the_channel_is_raised() -> None:
    async def taken() -> None:
        source = channel()
        source.queue._throw(RuntimeError("no more"))
        await take_batch(source, 4)

    with pytest.raises(RuntimeError, match="no more"):
        asyncio.run(taken())


class Flow:
    """Flow of a consumer, and the number of times that Faust's own way was taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slow = 0

        async def first_of(_consumer: Any, *waited: Any, timeout: float | None = None) -> Any:
            self.slow += 1
            tasks = [asyncio.ensure_future(one) for one in waited]
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=timeout)
            for task in pending:
                task.cancel()
            return [task.result() for task in done]

        monkeypatch.setattr(Consumer, "wait_first", first_of)
        self.consumer: Any = object.__new__(_Consumer)


def test_delivery_with_free_space_creates_no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, put = Flow(monkeypatch), []

    async def on_message() -> None:
        put.append("message")

    async def deliver() -> None:
        before = len(asyncio.all_tasks())
        await flow.consumer.wait_first(on_message(), asyncio.Event().wait())
        assert len(asyncio.all_tasks()) == before

    asyncio.run(deliver())
    assert (put, flow.slow) == (["message"], 0)


def test_delivery_without_space_waits_like_faust(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, steps = Flow(monkeypatch), []

    async def deliver() -> Any:
        room = asyncio.Event()

        async def on_message() -> str:
            steps.append("begun")
            await room.wait()
            await asyncio.sleep(0)
            steps.append("put")
            return "said"

        asyncio.get_running_loop().call_later(0.05, room.set)
        return await flow.consumer.wait_first(on_message(), asyncio.Event().wait())

    assert asyncio.run(deliver()) == ["said"]
    assert (steps, flow.slow) == (["begun", "put"], 1)


def test_blocked_delivery_is_cancelled_when_flow_suspends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flow, steps = Flow(monkeypatch), []

    async def deliver() -> None:
        suspended, room = asyncio.Event(), asyncio.Event()

        async def on_message() -> None:
            try:
                await room.wait()
            except asyncio.CancelledError:
                steps.append("given up")
                raise

        asyncio.get_running_loop().call_later(0.05, suspended.set)
        await flow.consumer.wait_first(on_message(), suspended.wait())
        await asyncio.sleep(0)

    asyncio.run(deliver())
    assert steps == ["given up"]


def test_delivery_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Error may come at once or later."""
    flow = Flow(monkeypatch)

    async def on_message(pause: bool) -> None:
        if pause:
            await asyncio.sleep(0.01)
        raise ValueError("not to be read")

    async def deliver(pause: bool) -> None:
        await flow.consumer.wait_first(on_message(pause), asyncio.Event().wait())

    for pause in (False, True):
        with pytest.raises(ValueError, match="not to be read"):
            asyncio.run(deliver(pause))


def test_resumed_coroutine_receives_cancellation() -> None:
    async def careful() -> str:
        try:
            async with asyncio.timeout(None):
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "put away"
        return "never"

    async def deliver() -> str:
        coroutine = careful()
        task = asyncio.ensure_future(_await(_ResumedCoroutine(coroutine, coroutine.send(None))))
        await asyncio.sleep(0)
        task.cancel()
        return await task

    async def _await(begun: _ResumedCoroutine) -> str:
        return str(await begun)

    assert asyncio.run(deliver()) == "put away"


class EndingConsumer:
    """Consumer of an app that ends in the middle of a rebalance."""

    def __init__(self) -> None:
        self.closed = False

    def stop_flow(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("hook", ["_on_partitions_revoked", "_on_partitions_assigned"])
@pytest.mark.parametrize("handover", [10.0, 0.1])
def test_rebalance_waits_for_the_last_commit(hook: str, handover: float) -> None:
    """Faust closes the consumer of a process that ends, and what was handled could not be committed any more."""

    async def told() -> None:
        settings = Settings(timing=TimingSettings(handover_seconds=handover))
        app: Any = make_app("scorer", settings, "a", 64, 0.02)
        app._consumer = EndingConsumer()
        app._stopped.set()
        rebalance = asyncio.create_task(getattr(app, hook)(set()))
        await asyncio.sleep(0.05)
        assert not app._consumer.closed
        if handover > 1:
            app.committed.set()
        async with asyncio.timeout(5):
            await rebalance
        assert app._consumer.closed, "the control: it is closed in the end"

    asyncio.run(told())


def test_shutdown_waits_for_cancelled_tasks() -> None:
    async def end() -> bool:
        async def task() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)

        cancelled = asyncio.create_task(task())
        await asyncio.sleep(0)
        cancelled.cancel()
        await Worker._sentinel_task(None)
        return cancelled.done()

    assert asyncio.run(end())
