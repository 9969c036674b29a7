"""The loop at work on one stream without Kafka: the live loop's own watch, policies, candidate, memory and gate.

What is left out: TPOT and fine-tuning (the linear head competes alone), and the time model is simple: a retraining's
model takes over so many events after the decision, one of the memory after a part of them.
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
"""From a decision to the new model's first prediction, as live on two cores (docs/measurements.md)."""
DECIDE_EVERY = 8
"""Labels between two looks of the policy: what the live worker sees in its 0.2 s at 40 events/s."""
RECALL = 0.3
"""Part of the lag after which a model of the memory answers: it is judged and restored, and nothing is fitted."""
BLOCK = 250
ENCODER = Path("encoder")
"""Stands for the encoder's folder: the linear head is fitted without it."""


@dataclass
class Stream:
    """A scenario with the embeddings of its texts, shape (n, d)."""

    scenario: Scenario
    embeddings: Matrix

    def __len__(self) -> int:
        return len(self.scenario)

    @property
    def rate(self) -> float:
        """Events per second: the scenario's, or 1,000 where that is higher or without a limit."""
        return min(self.scenario.rate, 1000.0)

    def window(self, positions: Sequence[int], onset: int = 0, labels: Sequence[str] | None = None) -> TrainingWindow:
        """The events at ``positions`` as a window; ``labels`` are what was said of them, by default the truth."""
        rows = [self.scenario.sequence[position] for position in positions]
        said = self.scenario.annotations
        return TrainingWindow(
            event_ids=tuple(map(str, positions)),
            texts=tuple(row.text for row in rows),
            labels=tuple(labels) if labels is not None else tuple(row.label for row in rows),
            embeddings=self.embeddings[list(positions)],
            encoder=ENCODER,
            onset=onset,
            segments=tuple(row.segment for row in rows),
            annotators=tuple(said[position].annotator for position in positions) if said else (),
        )


@dataclass(frozen=True)
class Model:
    """A head that was promoted, and what for."""

    head: Head
    trigger: str
    recipe: str
    """`linear`, or `archive` for one from the memory."""

    def answers(self, rows: TrainingWindow) -> Predictions:
        """Its answers to the rows."""
        said = self.head.predict_proba(rows.texts, rows.embeddings)
        return Predictions(self.head.classes, said, rows.embeddings, "encoder+head", 0.0)


@dataclass
class Loop:
    """Scorer, monitor and retraining job in turn, by the clock of the positions."""

    stream: Stream
    policy: Policy
    settings: Settings
    lag: int
    """Events between a decision and the first prediction of the model that was fitted for it."""
    learn: Callable[[TrainingWindow, int], tuple[Head, float]] = learn
    weigh: Callable[[TrainingWindow], TrainingWindow] = weight_labels
    """Says how far each label is trusted."""
    alerts: list[DriftAlert] = field(default_factory=list)
    past: list[CompletedRetraining] = field(default_factory=list)
    promoted: list[tuple[int, Model]] = field(default_factory=list)
    """Position and model of each swap."""
    rollbacks: list[int] = field(default_factory=list)
    verdicts: list[tuple[int, str, str]] = field(default_factory=list)
    """Position, recipe and the gate's words of each comparison."""
    cpu: dict[str, float] = field(default_factory=lambda: {"watch": 0.0, "retrain": 0.0})
    """CPU seconds by part."""

    def __post_init__(self) -> None:
        self._watch = DriftMonitor(self.settings.monitor.detectors, "bench")
        self._outcomes: deque[Outcome] = deque(maxlen=self.settings.retrain.window)
        self.bootstrap = self.stream.scenario.bootstrap or self.settings.retrain.bootstrap
        """Events that the first model learns from."""
        self._block: tuple[int, list[str], Matrix] = (0, [], np.zeros((0, 0), dtype=np.float32))
        self._coming: list[tuple[int, Model]] = []
        """Models that have won, and when they take over."""
        self._retraining: tuple[int, CompletedRetraining] | None = None
        """When the one under way ends, and what it was."""
        self._probation: tuple[ShadowTest, Model, int] | None = None
        self._labelled = 0
        self.correct = np.zeros(len(self.stream), dtype=bool)

    @property
    def model(self) -> Model:
        """The champion."""
        return self.promoted[-1][1]

    def run(self) -> None:
        """Play the stream from its first event to its last label."""
        first = self.stream.window(range(self.bootstrap), labels=self._said(range(self.bootstrap)))
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

    def _said(self, positions: Sequence[int]) -> list[str]:
        """The labels that are sent; where none ever comes, the truth stands in (the first model's slice only)."""
        said = self.stream.scenario.annotations
        rows = self.stream.scenario.sequence
        return [(said[at].label if said else None) or rows[at].label for at in positions]

    def _predict(self, position: int) -> Prediction:
        start, labels, probabilities = self._block
        if not start <= position < start + len(labels):
            span = range(position, min(position + BLOCK, len(self.stream)))
            answers = self.model.answers(self.stream.window(span))
            start, labels, probabilities = position, answers.labels, answers.probabilities
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
        said = self.stream.scenario.annotations
        given = said[position].label if said else self.stream.scenario.sequence[position].label
        if given is None:
            return
        annotator = said[position].annotator if said else ""
        label = Label(
            event_id=prediction.event_id,
            label=given,
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
        self._coming = [(tick + round(RECALL * self.lag), recalled)] if recalled else []
        self._coming += [(tick + self.lag, winner)] if winner else []
        past = CompletedRetraining(
            self._labelled,
            decision.onset_at,
            rows,
            newest,
            decision.trigger,
            bool(self._coming),
            decision.kind,
            self.lag / self.stream.rate,
        )
        self._retraining = (tick + self.lag, past)

    def _compete(self, window: TrainingWindow, decision: Retrain, tick: int) -> tuple[Model | None, Model | None]:
        """The archived model and the linear head that won, each where one did: the live competition's order."""
        chosen = self.settings.retrain
        judging: dict[str, Any] = {"limits": chosen.gate, "confidence": chosen.confidence, "seed": chosen.seed}
        standing = self.model
        recalled: Model | None = None
        first = standing.trigger != decision.trigger
        if decision.kind == "answer" and decision.onset_at > ALWAYS:
            kept = {str(at): model for at, model in self.promoted}
            names = last_of_each([(str(at), model.trigger) for at, model in self.promoted], chosen.concept_memory)
            since = window.take(slice(window.onset, None), 0)
            archived = {name: kept[name].answers(since) for name in names}
            found = recall(since, standing.answers(since), archived, **judging)
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
            slice_of(held, standing.answers(held), challenger.answers(held)),
            before=slice_of(before, standing.answers(before), challenger.answers(before))
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
        while self._coming and tick >= self._coming[0][0]:
            self._probation = (ShadowTest(1 - self.settings.retrain.confidence), self.model, tick)
            self._promote(self._coming.pop(0)[1], tick)
        if self._retraining is not None and tick >= self._retraining[0]:
            self.past.append(self._retraining[1])
            self._retraining = None

    def _watch_probation(self, outcome: Outcome, tick: int) -> None:
        """The predecessor answers the live events too; where it is better beyond chance, it is restored."""
        if self._probation is None or outcome.model_version != str(len(self.promoted)):
            return
        test, predecessor, _ = self._probation
        said = predecessor.answers(self.stream.window([outcome.position]))
        answer = {name: float(p) for name, p in zip(said.classes, said.probabilities[0], strict=True)}
        if test.update(outcome.label, outcome.probabilities, answer) == "challenger":
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
