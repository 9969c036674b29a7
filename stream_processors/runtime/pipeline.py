"""Pipeline of a handler's steps: one batch is written while the next is scored and another is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

Step = Callable[[Any], Any]


class StagePipeline:
    """Steps in sequence, each in its own thread, so that the event loop and its heartbeats never wait for them.

    A step works on one batch at a time, and the batches keep their order. A batch leaves a step when the next step is
    free. The number of batches in flight is therefore at most the number of steps, and a step needs no locks. All
    methods must be called in the event loop's thread.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"step-{number}") for number in range(len(steps))]
        # Each is held by the batch that occupies the step.
        self._occupied = [asyncio.Lock() for _ in steps]
        self._in_flight: set[asyncio.Task[None]] = set()

    async def run_first(self, work: Callable[[], None]) -> None:
        """Run a function in the thread of the first step."""
        await asyncio.get_running_loop().run_in_executor(self._threads[0], work)

    async def enter(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a coroutine that calls `process`, as soon as the first step is free; return when it has started."""
        try:
            await self._occupied[0].acquire()
        except asyncio.CancelledError:
            work.close()
            raise
        task = asyncio.create_task(work)
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)

    async def process(self, batch: Any) -> Any:
        """Pass a batch that has entered through all steps, and return the result of the last.

        An exception in a step is raised here. The pipeline is unusable afterwards.
        """
        loop, result = asyncio.get_running_loop(), batch
        for number, (step, thread) in enumerate(zip(self._steps, self._threads, strict=True)):
            if number:
                await self._occupied[number].acquire()
                self._occupied[number - 1].release()
            result = await loop.run_in_executor(thread, copy_context().run, step, result)
        self._occupied[-1].release()
        return result

    async def drain(self) -> None:
        """Wait until no batch is in flight."""
        while self._in_flight:
            await asyncio.wait(self._in_flight)
