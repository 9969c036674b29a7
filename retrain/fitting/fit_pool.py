"""Fit pool: slow candidates, each in a child process, while the worker's loop continues."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from retrain.candidates.base import Task
from retrain.fitting import sandbox
from retrain.fitting.sandbox import FitResult
from retrain.training_window import TrainingWindow


class FitPool:
    """Fits of one retraining, which run in parallel; `collect` returns the finished ones without a wait.

    Args:
        names: Names of the candidates.
        window: Labelled events to learn from.
        task: Returns the task of a candidate.
        scratch: Folder for their files.
        parallel: Maximum number of fits in parallel.
    """

    def __init__(
        self, names: list[str], window: TrainingWindow, task: Callable[[str], Task], scratch: Path, parallel: int
    ) -> None:
        self._cancelled: str | None = None  # the reason
        self._pool = ThreadPoolExecutor(parallel, thread_name_prefix="fit")
        self._running: dict[Future[FitResult], str] = {}

        def fit(name: str) -> FitResult:
            if self._cancelled is not None:  # while it was queued
                return FitResult(None, 0.0, self._cancelled, False)
            return sandbox.run(name, window, task(name), scratch / name, cancel=lambda: self._cancelled)

        for name in names:
            self._running[self._pool.submit(fit, name)] = name
        self._pool.shutdown(wait=False)

    @property
    def running(self) -> bool:
        """Return True if a fit is under way, or is finished and not collected."""
        return bool(self._running)

    def collect(self) -> list[tuple[str, FitResult]]:
        """Return name and outcome of the fits that have finished since the previous call."""
        done = [future for future in self._running if future.done()]
        return [(self._running.pop(future), future.result()) for future in done]

    def cancel(self, reason: str) -> None:
        """End the fits under way; `collect` returns each with this reason."""
        self._cancelled = self._cancelled or reason

    def close(self) -> None:
        """Wait for the processes to end. Call `cancel` first."""
        self._pool.shutdown(wait=True)
