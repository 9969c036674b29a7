"""Pipeline: batches keep their order, one in each step, several in flight."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from stream_processors.runtime.pipeline import StagePipeline, Step

WAIT = 10.0


async def through(line: StagePipeline, batches: Sequence[Any]) -> list[Any]:
    """Return the results of a pipeline in the order in which they come."""
    out: list[Any] = []

    async def carry(batch: Any) -> None:
        out.append(await line.process(batch))

    for batch in batches:
        await line.enter(carry(batch))
    await line.drain()
    return out


def test_each_batch_goes_through_all_steps_in_order() -> None:
    line = StagePipeline([lambda n: n + 1, lambda n: n * 10, str])
    assert asyncio.run(through(line, range(50))) == [str((n + 1) * 10) for n in range(50)]


def test_consecutive_batches_overlap_in_adjacent_steps() -> None:
    """The second step of each batch waits until the first step of the next one has begun."""
    begun = [threading.Event() for _ in range(6)]
    met = []

    def first(n: int) -> int:
        begun[n].set()
        return n

    def second(n: int) -> int:
        met.append(n == 5 or begun[n + 1].wait(WAIT))
        return n

    assert asyncio.run(through(StagePipeline([first, second]), range(6))) == list(range(6))
    assert met == [True] * 6


def test_each_step_handles_one_batch_in_order() -> None:
    busy = [0, 0, 0]
    seen: list[list[int]] = [[], [], []]
    most = [0, 0, 0]

    def step(number: int) -> Step:
        def work(n: int) -> int:
            busy[number] += 1
            most[number] = max(most[number], busy[number])
            seen[number].append(n)
            time.sleep(0.002 * ((n * 7 + number * 3) % 4))  # now this step is the slow one, now that
            busy[number] -= 1
            return n

        return work

    asyncio.run(through(StagePipeline([step(0), step(1), step(2)]), range(40)))
    assert most == [1, 1, 1]
    assert seen == [list(range(40))] * 3


def test_batch_waits_while_first_step_is_busy() -> None:
    free = threading.Event()

    async def main() -> None:
        line = StagePipeline([lambda n: free.wait(WAIT) and n])
        await line.enter(line.process(1))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(line.enter(line.process(2)), 0.05)
        free.set()
        await asyncio.wait_for(line.enter(line.process(3)), WAIT)
        await line.drain()

    asyncio.run(main())


def test_step_error_reaches_the_caller() -> None:
    def broken(_: int) -> int:
        raise ValueError("no")

    async def main() -> None:
        line = StagePipeline([lambda n: n, broken])
        caught: list[str] = []

        async def carry() -> None:
            try:
                await line.process(1)
            except ValueError as error:
                caught.append(str(error))

        await line.enter(carry())
        await line.drain()
        assert caught == ["no"]

    asyncio.run(main())


def test_batches_in_flight_never_exceed_steps() -> None:
    """The first batch is in the second step, the second waits in the first step, and the third waits outside."""
    free = threading.Event()

    async def main() -> None:
        line = StagePipeline([lambda n: n, lambda n: free.wait(WAIT) and n])
        for n in range(2):
            await asyncio.wait_for(line.enter(line.process(n)), WAIT)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(line.enter(line.process(2)), 0.2)
        free.set()
        await asyncio.wait_for(line.enter(line.process(3)), WAIT)
        await line.drain()

    asyncio.run(main())
