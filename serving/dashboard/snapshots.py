"""Snapshots of the loop for the dashboard: one per second, shared by all open pages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from driftloop.core.messages import DriftAlert
from driftloop.core.models.registry import Model
from driftloop.core.terminal_text import escape_control_chars
from serving.cases import builder
from serving.cases.model import Round
from serving.dashboard import charts
from serving.live.accuracy import Mark
from serving.live.loop_state import LoopState
from serving.live.recent_predictions import PredictionLine, SpeedSample
from serving.routes import AppContext

FRESH = 0.9
"""Seconds for which a snapshot is reused."""
POINTS = 120
"""Largest number of points of a line in a chart."""
ALERTS, QUEUE, NEWS, MARKS = 8, 8, 30, 60
"""Largest numbers of alerts, of predictions in the labelling queue, of lines in the log, and of marks in a chart."""
MODELS_EVERY = 20.0
"""Seconds after which the registry is read again without a known change."""


@dataclass(frozen=True)
class Snapshot:
    """State of the loop at one moment. The texts in `news`, `feed` and `queue` are escaped, the others are not."""

    phase: str
    champion: str
    rate: float
    lag: int
    latency: tuple[float, float]
    """Median and 99th percentile in milliseconds."""
    accuracy: float | None
    predictions: int
    outcomes: int
    dead_letters: int
    rolling: dict[str, list[tuple[int, float]]]
    """Rolling accuracy by version; see `AccuracyTimeline.rolling`."""
    marks: list[Mark]
    weights: list[tuple[int, dict[str, float]]]
    """Weights of the experts of a mixture; see `LoopHistory.weights`. Empty without one."""
    seconds: list[SpeedSample]
    alerts: list[DriftAlert]
    """Alerts, newest first."""
    round: Round | None
    """Newest retraining; `None` before the first one."""
    feed: list[PredictionLine]
    queue: list[PredictionLine]
    news: list[str]
    """Lines of the log, newest first."""
    printed: int
    """Number of log lines since the start."""

    @cached_property
    def accuracy_chart(self) -> charts.Options:
        """Chart of the accuracy. Each chart is made once for all open pages."""
        return charts.accuracy(self.rolling, self.marks)

    @cached_property
    def weights_chart(self) -> charts.Options:
        """Chart of the weights of the experts."""
        return charts.weights(self.weights)

    @cached_property
    def speed_chart(self) -> charts.Options:
        """Chart of the throughput."""
        return charts.speed(self.seconds)

    @cached_property
    def latency_chart(self) -> charts.Options:
        """Chart of the latency."""
        return charts.latency(self.seconds)


class Snapshots:
    """The newest snapshot of the loop, and a recent list of the registered models.

    Args:
        context: The objects that the routes share.
        clock: Monotonic clock in seconds.
    """

    def __init__(self, context: AppContext, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._clock = clock
        self._lock = threading.Lock()
        self._models_lock = threading.Lock()
        self._made = float("-inf")
        self._snapshot: Snapshot | None = None
        self._models: list[Model] = []
        # Time of the last read of the registry, and the state of the loop at that time.
        self._models_read: tuple[float, Any] = (float("-inf"), None)

    def now(self) -> Snapshot:
        """Return the snapshot of this second."""
        with self._lock:
            if self._snapshot is None or self._clock() - self._made > FRESH:
                self._snapshot, self._made = take_snapshot(self._context.loop), self._clock()
            return self._snapshot

    def models(self) -> list[Model]:
        """Return the registered versions, newest first. MLflow is asked again after a change.

        Raises:
            HTTPException: 503 if MLflow does not answer.
        """
        with self._models_lock:
            loop = self._context.loop
            with loop.lock:
                state = (loop.history.champion, loop.history.decisions)
            read_at, state_then = self._models_read
            if state != state_then or self._clock() - read_at > MODELS_EVERY:
                self._models = self._context.query_registry(lambda registry: registry.models())[::-1]
                self._models_read = (self._clock(), state)
            return self._models


def take_snapshot(loop: LoopState) -> Snapshot:
    """Return a snapshot of the loop as it is now."""
    with loop.lock:
        status, accuracy, history, recent = loop.status, loop.accuracy, loop.history, loop.recent
        run = next(reversed(history.runs.values()), None)
        steps = [step for one in history.runs.values() for step in one if run and step.trigger == run[0].trigger]
        return Snapshot(
            phase=status.phase,
            champion=history.champion,
            rate=loop.rate,
            lag=status.lag,
            latency=recent.latency(),
            accuracy=accuracy.accuracy,
            predictions=status.predictions,
            outcomes=status.outcomes,
            dead_letters=status.dead_letters,
            rolling=accuracy.rolling(POINTS),
            marks=accuracy.marks[-MARKS:],
            weights=list(history.weights)[:: 1 + len(history.weights) // POINTS],
            seconds=list(recent.samples),
            alerts=list(history.alerts.values())[: -ALERTS - 1 : -1],
            round=next(reversed(builder.rounds(run[0].trigger, steps)), None) if run else None,
            feed=recent.feed(),
            queue=recent.worth_labelling(QUEUE),
            printed=loop.news.total,
            news=[escape_control_chars(line) for line in list(loop.news.lines)[: -NEWS - 1 : -1]],
        )
