"""In-process loop: the live loop's monitor, policies, candidate, concept memory and gate on one stream, without Kafka.

TPOT and fine-tuning are left out, so the linear head competes alone. The time model is simple. A new model takes over
a fixed number of events after the decision, and a model of the memory after a part of them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from driftloop.core.messages import DriftAlert, Label, Outcome, Prediction
from driftloop.core.models.classifier import Matrix, Predictions
from driftloop.core.models.head import Head
from driftloop.core.settings import Settings
from producers.label_schedule import LabelSchedule
from producers.scenarios.scenarios import Scenario
from retrain.candidates.base import CannotFit
from retrain.candidates.linear import fit_head, learn
from retrain.evaluation.gate import judge
from retrain.evaluation.paired_slice import slice_of
from retrain.evaluation.sequential_test import ShadowTest
from retrain.labels.annotator_trust import weight_labels
from retrain.policies.base import ALWAYS, CompletedRetraining, Policy, PolicyContext, Retrain
from retrain.promotion.concept_memory import last_of_each, recall
from retrain.training_window import TrainingWindow
from stream_processors.drift.drift_monitor import DriftMonitor
from stream_processors.monitoring.label_join import outcome as join_one

SECONDS = 4.0
"""Seconds from a decision to the new model's first prediction, as live on two cores (docs/measurements.md)."""
DECIDE_EVERY = 8
"""Labels between two decisions: the number that the live worker receives in its 0.2 s at 40 events/s."""
RECALL_LAG = 0.3
"""Part of the lag after which a model of the memory takes over. It is judged and restored, but not fitted."""
PREDICTED_TOGETHER = 250
"""Events that are predicted in one call while the model does not change."""
ENCODER = Path("encoder")
"""Placeholder of the encoder's folder. The linear head is fitted without it."""


@dataclass
class Stream:
    """A scenario with the embeddings of its texts, shape (n, d)."""

    scenario: Scenario
    embeddings: Matrix

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


@dataclass(frozen=True)
class Model:
    """A head that was promoted."""

    head: Head
    trigger: str
    """Trigger of the retraining that it comes from."""
    recipe: str
    """`linear`, or `archive` for a model of the memory."""

    def predict(self, rows: TrainingWindow) -> Predictions:
        """Predict the rows."""
        probabilities = self.head.predict_proba(rows.texts, rows.embeddings)
        return Predictions(self.head.classes, probabilities, rows.embeddings, "encoder+head", 0.0)


@dataclass
class Loop:
    """Scorer, monitor and retrainer in turn. The clock counts positions."""

    stream: Stream
    policy: Policy
    settings: Settings
    lag: int
    """Events between a decision and the first prediction of the model fitted for it."""
    learn: Callable[[TrainingWindow, int], tuple[Head, float]] = learn
    weigh: Callable[[TrainingWindow], TrainingWindow] = weight_labels
    """Sets the weight of each label."""
    alerts: list[DriftAlert] = field(default_factory=list)
    past: list[CompletedRetraining] = field(default_factory=list)
    promoted: list[tuple[int, Model]] = field(default_factory=list)
    """Position and model of each swap."""
    rollbacks: list[int] = field(default_factory=list)
    verdicts: list[tuple[int, str, str]] = field(default_factory=list)
    """Position, recipe and the gate's reason of each comparison."""
    cpu: dict[str, float] = field(default_factory=lambda: {"watch": 0.0, "retrain": 0.0})
    """CPU seconds by part."""

    def __post_init__(self) -> None:
        self._watch = DriftMonitor(self.settings.monitor.detectors, "bench")
        self._outcomes: deque[Outcome] = deque(maxlen=self.settings.retrain.window)
        self.bootstrap = self.stream.scenario.bootstrap or self.settings.retrain.bootstrap
        """Number of events that the first model learns from."""
        # Position, labels and probabilities of the events predicted in one call.
        self._block: tuple[int, list[str], Matrix] = (0, [], np.zeros((0, 0), dtype=np.float32))
        # Models that have won, and the ticks at which they take over.
        self._upcoming: list[tuple[int, Model]] = []
        # The current retraining, and the tick at which it ends.
        self._retraining: tuple[int, CompletedRetraining] | None = None
        self._probation: tuple[ShadowTest, Model, int] | None = None
        self._labelled = 0
        self.correct = np.zeros(len(self.stream), dtype=bool)

    @property
    def model(self) -> Model:
        """The champion."""
        return self.promoted[-1][1]

    def run(self) -> None:
        """Play the stream from its first event to its last label."""
        first = self.stream.window(range(self.bootstrap), labels=self._sent_labels(range(self.bootstrap)))
        head, _ = self.learn(self.weigh(first), self.settings.retrain.seed)
        self.promoted.append((0, Model(head, "bootstrap", "linear")))
        schedule = LabelSchedule(len(self.stream), self.stream.scenario.label_delay, self.bootstrap)
        waiting: dict[int, Prediction] = {}
        for tick in range(schedule.ticks):
            self._take_over(tick)
            if tick < len(self.stream):
                waiting[tick] = self._predict(tick)
                with _Clock(self.cpu, "watch"):
                    self.alerts += self._watch.predicted(waiting[tick], self.stream.embeddings[tick])
            for position in schedule.due(tick):
                self._label(waiting.pop(position), tick)

    def _sent_labels(self, positions: Sequence[int]) -> list[str]:
        """Return the labels that are sent. The true label replaces one that never comes (first model only)."""
        annotations = self.stream.scenario.annotations
        rows = self.stream.scenario.sequence
        return [(annotations[at].label if annotations else None) or rows[at].label for at in positions]

    def _predict(self, position: int) -> Prediction:
        start, labels, probabilities = self._block
        if not start <= position < start + len(labels):
            span = range(position, min(position + PREDICTED_TOGETHER, len(self.stream)))
            predictions = self.model.predict(self.stream.window(span))
            start, labels, probabilities = position, predictions.labels, predictions.probabilities
            self._block = (start, labels, probabilities)
        row = self.stream.scenario.sequence[position]
        at = position - start
        self.correct[position] = labels[at] == row.label
        classes = self.model.head.classes
        return Prediction(
            event_id=self.stream.scenario.event_ids[position],
            label=labels[at],
            probabilities={name: float(p) for name, p in zip(classes, probabilities[at], strict=True)},
            model_version=str(len(self.promoted)),
            route="",
            latency_ms=0.0,
            text=row.text,
            segment=row.segment,
            occurred_at=float(position),
            predicted_at=float(position),
            position=position,
            in_sample=position < self.bootstrap,
        )

    def _label(self, prediction: Prediction, tick: int) -> None:
        position = prediction.position
        annotations = self.stream.scenario.annotations
        name = annotations[position].label if annotations else self.stream.scenario.sequence[position].label
        if name is None:
            return
        annotator = annotations[position].annotator if annotations else ""
        label = Label(
            event_id=prediction.event_id,
            label=name,
            labelled_at=float(position),
            position=position,
            annotator=annotator,
        )
        outcome = join_one(prediction, label)
        self._outcomes.append(outcome)
        self._labelled += 1
        with _Clock(self.cpu, "watch"):
            self.alerts += self._watch.labelled(outcome, self._labelled - 1)
        self._watch_probation(outcome, tick)
        if self._retraining is None and self._labelled % DECIDE_EVERY == 0:
            decision = self.policy.decide(
                PolicyContext(self._labelled, tuple(self.past)), self.alerts[-200:], self._outcomes
            )
            if isinstance(decision, Retrain):
                with _Clock(self.cpu, "retrain"):
                    self._retrain(decision, tick)

    def _retrain(self, decision: Retrain, tick: int) -> None:
        rows = sum(outcome.occurred_at >= decision.onset_at for outcome in self._outcomes)
        newest = self._outcomes[-1].occurred_at
        positions = [outcome.position for outcome in self._outcomes]
        onset = 0 if rows == 0 else len(positions) - rows
        window = self.weigh(self.stream.window(positions, onset, [outcome.label for outcome in self._outcomes]))
        recalled, winner = self._compete(window, decision, tick)
        self._upcoming = [(tick + round(RECALL_LAG * self.lag), recalled)] if recalled else []
        self._upcoming += [(tick + self.lag, winner)] if winner else []
        past = CompletedRetraining(
            self._labelled,
            decision.onset_at,
            rows,
            newest,
            decision.trigger,
            bool(self._upcoming),
            decision.kind,
            self.lag / self.stream.rate,
        )
        self._retraining = (tick + self.lag, past)

    def _compete(self, window: TrainingWindow, decision: Retrain, tick: int) -> tuple[Model | None, Model | None]:
        """Compare an archived model, then a new linear head, as live. Return each one that won, otherwise None."""
        chosen = self.settings.retrain
        judging: dict[str, Any] = {"limits": chosen.gate, "confidence": chosen.confidence, "seed": chosen.seed}
        standing = self.model
        recalled: Model | None = None
        first = standing.trigger != decision.trigger
        if decision.kind == "answer" and decision.onset_at > ALWAYS:
            kept = {str(at): model for at, model in self.promoted}
            names = last_of_each([(str(at), model.trigger) for at, model in self.promoted], chosen.concept_memory)
            since = window.take(slice(window.onset, None), 0)
            archived = {name: kept[name].predict(since) for name in names}
            found = recall(since, standing.predict(since), archived, **judging)
            if found is not None:
                self.verdicts.append((tick, "archive", found[1].reason))
                if found[1].better:
                    standing = recalled = Model(kept[found[0]].head, decision.trigger, "archive")
        train, held, before = window.hold_out(chosen.holdout)
        try:
            head, old_weight = self.learn(train, chosen.seed)
        except CannotFit:
            return recalled, None
        challenger = Model(head, decision.trigger, "linear")
        verdict = judge(
            slice_of(held, standing.predict(held), challenger.predict(held)),
            before=slice_of(before, standing.predict(before), challenger.predict(before))
            if first and len(before)
            else None,
            refresh=(standing.trigger, standing.recipe) == (challenger.trigger, "linear"),
            **judging,
        )
        self.verdicts.append((tick, "linear", verdict.reason))
        if verdict.better:
            return recalled, Model(fit_head(window, old_weight, chosen.seed), decision.trigger, "linear")
        return recalled, None

    def _take_over(self, tick: int) -> None:
        while self._upcoming and tick >= self._upcoming[0][0]:
            self._probation = (ShadowTest(1 - self.settings.retrain.confidence), self.model, tick)
            self._promote(self._upcoming.pop(0)[1], tick)
        if self._retraining is not None and tick >= self._retraining[0]:
            self.past.append(self._retraining[1])
            self._retraining = None

    def _watch_probation(self, outcome: Outcome, tick: int) -> None:
        """Predict live events with the predecessor too, and restore it if it is significantly better."""
        if self._probation is None or outcome.model_version != str(len(self.promoted)):
            return
        test, predecessor, _ = self._probation
        found = predecessor.predict(self.stream.window([outcome.position]))
        probabilities = {name: float(p) for name, p in zip(found.classes, found.probabilities[0], strict=True)}
        if test.update(outcome.label, outcome.probabilities, probabilities) == "challenger":
            self.verdicts.append((tick, "probation", test.summary("the promoted model", "its predecessor")))
            self._probation = None
            self.rollbacks.append(tick)
            self._promote(predecessor, tick)
        elif test.accuracy.events >= self.settings.retrain.probation:
            self._probation = None

    def _promote(self, model: Model, tick: int) -> None:
        self.promoted.append((tick, model))
        self._block = (0, [], self._block[2])


class _Clock:
    """Adds the CPU seconds of a block to a counter."""

    def __init__(self, into: dict[str, float], name: str) -> None:
        self._into, self._name = into, name

    def __enter__(self) -> None:
        self._began = time.process_time()

    def __exit__(self, *_: object) -> None:
        self._into[self._name] += time.process_time() - self._began
