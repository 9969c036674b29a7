"""The slow candidates at work: each fits in a process of its own while the worker and the events go on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from retrain.candidates.base import Task
from retrain.fitting import sandbox
from retrain.fitting.sandbox import FitResult
from retrain.training_window import TrainingWindow


class FitPool:
    """Fits of one retraining, ``at_once`` of them side by side; asked for what is done, never waited for."""

    def __init__(
        self, names: list[str], window: TrainingWindow, task: Callable[[str], Task], scratch: Path, at_once: int
    ) -> None:
        self._ended: str | None = None
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="fit")
        self._running: dict[Future[FitResult], str] = {}

        def fit(name: str) -> FitResult:
            if self._ended is not None:  # before its turn came
                return FitResult(None, 0.0, self._ended, False)
            return sandbox.run(name, window, task(name), scratch / name, cancel=lambda: self._ended)

        for name in names:
            self._running[self._pool.submit(fit, name)] = name
        self._pool.shutdown(wait=False)

    @property
    def running(self) -> bool:
        """Whether a fit is under way or waits to be collected."""
        return bool(self._running)

    def collect(self) -> list[tuple[str, FitResult]]:
        """The candidates that have ended since the last time."""
        done = [future for future in self._running if future.done()]
        return [(self._running.pop(future), future.result()) for future in done]

    def cancel(self, reason: str) -> None:
        """End what is under way; each fit then says ``reason`` in `collect`."""
        self._ended = self._ended or reason

    def close(self) -> None:
        """Wait for the processes to end; call `cancel` first."""
        self._pool.shutdown(wait=True)
