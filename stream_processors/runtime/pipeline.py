"""Batches on their way through the steps of a handler: while one is written, the next is scored, and another read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

Step = Callable[[Any], Any]


class StagePipeline:
    """Steps one after the other, each in a thread of its own, which the event loop and its heartbeats do not wait for.

    A step is at one batch at a time, and the batches keep their order: a batch leaves a step when the next one is
    free. So no more of them are under way than there are steps, and a step needs no locks of its own. All methods are
    for the thread of the event loop.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"step-{number}") for number in range(len(steps))]
        self._places = [asyncio.Lock() for _ in steps]
        self._under_way: set[asyncio.Task[None]] = set()

    async def run_first(self, work: Callable[[], None]) -> None:
        """Do ``work`` in the thread of the first step."""
        await asyncio.get_running_loop().run_in_executor(self._threads[0], work)

    async def enter(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin ``work``, which is to `carry` a batch, when the first step is free; returns when it has begun."""
        try:
            await self._places[0].acquire()
        except asyncio.CancelledError:
            work.close()
            raise
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def process(self, batch: Any) -> Any:
        """Take a batch that has entered through all steps; what the last one returns.

        What a step raises is raised here, and then the line is of no more use.
        """
        loop, found = asyncio.get_running_loop(), batch
        for number, (step, thread) in enumerate(zip(self._steps, self._threads, strict=True)):
            if number:
                await self._places[number].acquire()
                self._places[number - 1].release()
            found = await loop.run_in_executor(thread, copy_context().run, step, found)
        self._places[-1].release()
        return found

    async def drain(self) -> None:
        """Wait until no batch is under way."""
        while self._under_way:
            await asyncio.wait(self._under_way)
