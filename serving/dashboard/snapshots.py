"""What the live page shows at one moment: made once a second, for all who look."""

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
"""Seconds for which a picture is shown to whoever asks."""
POINTS = 120
"""Of each line of the chart, at most."""
ALERTS, QUEUE, NEWS, MARKS = 8, 8, 30, 60
MODELS_EVERY = 20.0
"""Seconds after which the registry is asked again though nothing was heard of it."""


@dataclass(frozen=True)
class Snapshot:
    """The loop at one moment. Text is as it came, but for `news`, `feed` and `queue`: those can be shown."""

    phase: str
    champion: str
    rate: float
    lag: int
    latency: tuple[float, float]
    """Median and 99th percentile, ms."""
    accuracy: float | None
    predictions: int
    outcomes: int
    dead_letters: int
    rolling: dict[str, list[tuple[int, float]]]
    """See `AccuracyTimeline.rolling`."""
    marks: list[Mark]
    seconds: list[SpeedSample]
    alerts: list[DriftAlert]
    """The newest first."""
    round: Round | None
    """The newest retraining."""
    feed: list[PredictionLine]
    queue: list[PredictionLine]
    news: list[str]
    """The newest first."""
    printed: int
    """Pieces of news so far."""

    @cached_property
    def accuracy_chart(self) -> charts.Options:
        """This and the next two are drawn once, for all tabs."""
        return charts.accuracy(self.rolling, self.marks)

    @cached_property
    def speed_chart(self) -> charts.Options:
        """See `charts.speed`."""
        return charts.speed(self.seconds)

    @cached_property
    def latency_chart(self) -> charts.Options:
        """See `charts.latency`."""
        return charts.latency(self.seconds)


class Snapshots:
    """The newest picture, and the models of the registry as they were a moment ago."""

    def __init__(self, parts: AppContext, clock: Callable[[], float] = time.monotonic) -> None:
        self._parts = parts
        self._clock = clock
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._made = float("-inf")
        self._picture: Snapshot | None = None
        self._models: list[Model] = []
        self._asked: tuple[float, Any] = (float("-inf"), None)

    def now(self) -> Snapshot:
        """The picture of this second."""
        with self._lock:
            if self._picture is None or self._clock() - self._made > FRESH:
                self._picture, self._made = take(self._parts.loop), self._clock()
            return self._picture

    def models(self) -> list[Model]:
        """The registered versions, the newest first; MLflow is asked when something has happened to them.

        Raises:
            HTTPException: 503 where it does not answer.
        """
        with self._asking:
            loop = self._parts.loop
            with loop.lock:
                happened = (loop.history.champion, loop.history.decisions)
            asked, before = self._asked
            if happened != before or self._clock() - asked > MODELS_EVERY:
                self._models = self._parts.ask_registry(lambda registry: registry.models())[::-1]
                self._asked = (self._clock(), happened)
            return self._models


def take(loop: LoopState) -> Snapshot:
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
            seconds=list(recent.samples),
            alerts=list(history.alerts.values())[: -ALERTS - 1 : -1],
            round=next(reversed(builder.rounds(run[0].trigger, steps)), None) if run else None,
            feed=recent.feed(),
            queue=recent.worth_labelling(QUEUE),
            printed=loop.news.total,
            news=[escape_control_chars(line) for line in list(loop.news.lines)[: -NEWS - 1 : -1]],
        )
