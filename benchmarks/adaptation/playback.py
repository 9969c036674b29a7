"""Playback of a stream: the order of events, predictions, labels and alerts that every system of the benchmark meets.

The clock counts positions. An event is predicted at its position; its label comes as the scenario sends it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.predictions import make_prediction
from driftloop.core.messages import DriftAlert, Label, Outcome, Prediction
from driftloop.core.models.classifier import Matrix
from driftloop.core.settings import Settings
from producers.label_schedule import LabelSchedule
from producers.scenarios.scenarios import Scenario
from retrain.training_window import TrainingWindow
from stream_processors.drift.drift_monitor import DriftMonitor
from stream_processors.monitoring.label_join import outcome as join_one

ENCODER = Path("encoder")
"""Placeholder of the encoder's folder. The heads are fitted without it."""


@dataclass
class Stream:
    """A scenario with the embeddings of its texts, shape (n, d)."""

    scenario: Scenario
    embeddings: Matrix
    tokens: Sequence[Sequence[int]] | None = None
    """The encoder's tokens of each text. `None`: they are computed where they are needed."""

    def __len__(self) -> int:
        return len(self.scenario)

    @property
    def rate(self) -> float:
        """Events per second: the scenario's rate, at most 1,000."""
        return min(self.scenario.rate, 1000.0)

    def window(self, positions: Sequence[int], onset: int = 0, labels: Sequence[str] | None = None) -> TrainingWindow:
        """Return events as a training window.

        Args:
            positions: Positions of the events.
            onset: Index of the first event of the current concept.
            labels: Label of each event. Default: the true ones.
        """
        rows = [self.scenario.sequence[position] for position in positions]
        annotations = self.scenario.annotations
        return TrainingWindow(
            event_ids=tuple(map(str, positions)),
            texts=tuple(row.text for row in rows),
            labels=tuple(labels) if labels is not None else tuple(row.label for row in rows),
            embeddings=self.embeddings[list(positions)],
            encoder=ENCODER,
            onset=onset,
            segments=tuple(row.segment for row in rows),
            annotators=tuple(annotations[position].annotator for position in positions) if annotations else (),
        )


class Playback(ABC):
    """Scorer, monitor and retrainer in turn, on one stream.

    Args:
        stream: The stream.
        settings: Settings of the loop.
    """

    def __init__(self, stream: Stream, settings: Settings) -> None:
        self.stream = stream
        self.settings = settings
        self.bootstrap = stream.scenario.bootstrap or settings.retrain.bootstrap
        """Number of events that the first model learns from."""
        self.alerts: list[DriftAlert] = []
        self.cpu = {"watch": 0.0, "retrain": 0.0}
        """CPU seconds by part."""
        self.correct = np.zeros(len(stream), dtype=bool)
        self.labelled = 0
        """Labels that have come."""
        self._watch = DriftMonitor(settings.monitor.detectors, "bench")

    def run(self) -> None:
        """Play the stream from its first event to its last label."""
        self.train_first(self.stream.window(range(self.bootstrap), labels=self._sent_labels(range(self.bootstrap))))
        schedule = LabelSchedule(len(self.stream), self.stream.scenario.label_delay, self.bootstrap)
        waiting: dict[int, Prediction] = {}
        for tick in range(schedule.ticks):
            self.begin(tick)
            if tick < len(self.stream):
                waiting[tick] = self._predict(tick)
                with Clock(self.cpu, "watch"):
                    self._alert(self._watch.predicted(waiting[tick], self.stream.embeddings[tick]))
            for position in schedule.due(tick):
                self._label(waiting.pop(position), tick)

    @abstractmethod
    def train_first(self, rows: TrainingWindow) -> None:
        """Train the first model."""

    @abstractmethod
    def begin(self, tick: int) -> None:
        """Put models into use that are due at this tick."""

    @abstractmethod
    def predict(self, position: int) -> tuple[Sequence[str], Matrix, str]:
        """Return the k classes, the probabilities of the event at this position (k,), and the model's version."""

    def reference(self, position: int) -> dict[str, float]:
        """Return the probabilities of the version as it was registered; empty if it has not changed since."""
        return {}

    @abstractmethod
    def learn(self, outcome: Outcome, tick: int) -> None:
        """Learn from a label.

        Args:
            outcome: The labelled event.
            tick: Current tick.
        """

    @abstractmethod
    def alert(self, alert: DriftAlert) -> None:
        """React to an alert."""

    @abstractmethod
    def counts(self) -> dict[str, Any]:
        """Return the fields of a row about retrainings and swaps, by name; see `benchmarks.adaptation.results.Row`."""

    def _alert(self, alerts: Sequence[DriftAlert]) -> None:
        self.alerts += alerts
        for alert in alerts:
            self.alert(alert)

    def _sent_labels(self, positions: Sequence[int]) -> list[str]:
        """Return the labels that are sent. The true label replaces one that never comes (first model only)."""
        annotations = self.stream.scenario.annotations
        rows = self.stream.scenario.sequence
        return [(annotations[at].label if annotations else None) or rows[at].label for at in positions]

    def _predict(self, position: int) -> Prediction:
        classes, probabilities, version = self.predict(position)
        row = self.stream.scenario.sequence[position]
        prediction = make_prediction(
            row,
            position,
            classes,
            probabilities,
            event_id=self.stream.scenario.event_ids[position],
            model_version=version,
            in_sample=position < self.bootstrap,
            reference=self.reference(position),
        )
        self.correct[position] = prediction.label == row.label
        return prediction

    def _label(self, prediction: Prediction, tick: int) -> None:
        position = prediction.position
        annotations = self.stream.scenario.annotations
        name = annotations[position].label if annotations else self.stream.scenario.sequence[position].label
        if name is None:
            return
        label = Label(
            event_id=prediction.event_id,
            label=name,
            labelled_at=float(position),
            position=position,
            annotator=annotations[position].annotator if annotations else "",
        )
        outcome = join_one(prediction, label)
        self.labelled += 1
        with Clock(self.cpu, "watch"):
            self._alert(self._watch.labelled(outcome, self.labelled - 1))
        self.learn(outcome, tick)


class Clock:
    """Adds the CPU seconds of a block to a counter."""

    def __init__(self, into: dict[str, float], name: str) -> None:
        self._into, self._name = into, name

    def __enter__(self) -> None:
        self._began = time.process_time()

    def __exit__(self, *_: object) -> None:
        self._into[self._name] += time.process_time() - self._began
