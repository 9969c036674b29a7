"""The slow candidates at work: each fits in a process of its own while the worker and the events go on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from retrain import sandbox
from retrain.candidates.base import Task
from retrain.sandbox import Fitted
from retrain.window import Window


class Search:
    """Fits of one retraining side by side; asked for what is done, never waited for."""

    def __init__(self, names: list[str], window: Window, task: Callable[[str], Task], scratch: Path) -> None:
        self._ended: str | None = None
        self._pool = ThreadPoolExecutor(max(len(names), 1), thread_name_prefix="fit")
        self._running: dict[Future[Fitted], str] = {}
        for name in names:
            future = self._pool.submit(
                sandbox.run, name, window, task(name), scratch / name, cancel=lambda: self._ended
            )
            self._running[future] = name
        self._pool.shutdown(wait=False)

    @property
    def running(self) -> bool:
        """Whether a fit is under way or waits to be collected."""
        return bool(self._running)

    def collect(self) -> list[tuple[str, Fitted]]:
        """The candidates that have ended since the last time."""
        done = [future for future in self._running if future.done()]
        return [(self._running.pop(future), future.result()) for future in done]

    def cancel(self, reason: str) -> None:
        """End what is under way; each fit then says ``reason`` in `collect`."""
        self._ended = self._ended or reason

    def close(self) -> None:
        """Wait for the processes to end; call `cancel` first."""
        self._pool.shutdown(wait=True)
