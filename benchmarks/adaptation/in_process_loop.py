"""In-process loop: the live loop's monitor, policies, candidate, concept memory and gate on one stream, without Kafka.

TPOT and fine-tuning are left out, so the linear head competes alone. The time model is simple. A new model takes over
a fixed number of events after the decision, and a model of the memory after a part of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.adaptation.playback import Clock, Playback, Stream
from driftloop.core.messages import DriftAlert, Outcome
from driftloop.core.models.classifier import Matrix, Predictions
from driftloop.core.models.head import Head
from driftloop.core.settings import Settings
from retrain.candidates.base import CannotFit
from retrain.candidates.linear import fit_head, learn
from retrain.evaluation.gate import judge
from retrain.evaluation.paired_slice import slice_of
from retrain.evaluation.sequential_test import ShadowTest
from retrain.labels.annotator_trust import weight_labels
from retrain.policies.base import ALWAYS, CompletedRetraining, Policy, PolicyContext, Retrain
from retrain.policies.on_drift import rows_since
from retrain.promotion.concept_memory import last_of_each, recall
from retrain.training_window import TrainingWindow

SECONDS = 4.0
"""Seconds from a decision to the new model's first prediction, as live on two cores (docs/measurements.md)."""
DECIDE_EVERY = 8
"""Labels between two decisions: the number that the live worker receives in its 0.2 s at 40 events/s."""
RECALL_LAG = 0.3
"""Part of the lag after which a model of the memory takes over. It is judged and restored, but not fitted."""
PREDICTED_TOGETHER = 250
"""Events that are predicted in one call while the model does not change."""


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


class Loop(Playback):
    """The loop with one champion at a time.

    Args:
        stream: The stream.
        policy: Policy that decides on retrainings.
        settings: Settings of the loop.
        lag: Events between a decision and the first prediction of the model fitted for it.
        learn_head: Fits a head on a window with a seed; returns it with the weight of the rows before the drift.
        weigh: Sets the weight of each label.
    """

    def __init__(
        self,
        stream: Stream,
        policy: Policy,
        settings: Settings,
        lag: int,
        learn_head: Callable[[TrainingWindow, int], tuple[Head, float]] = learn,
        weigh: Callable[[TrainingWindow], TrainingWindow] = weight_labels,
    ) -> None:
        super().__init__(stream, settings)
        self.policy = policy
        self.lag = lag
        self._learn_head = learn_head
        self._weigh = weigh
        self.past: list[CompletedRetraining] = []
        self.promoted: list[tuple[int, Model]] = []
        """Position and model of each swap."""
        self.rollbacks: list[int] = []
        self.verdicts: list[tuple[int, str, str]] = []
        """Position, recipe and the gate's reason of each comparison."""
        self._outcomes: deque[Outcome] = deque(maxlen=settings.retrain.window)
        # Position and predictions of the events predicted in one call.
        self._block: tuple[int, Matrix] = (0, np.zeros((0, 0), dtype=np.float32))
        # Models that have won, and the ticks at which they take over.
        self._upcoming: list[tuple[int, Model]] = []
        # The current retraining, and the tick at which it ends.
        self._retraining: tuple[int, CompletedRetraining] | None = None
        self._probation: tuple[ShadowTest, Model, int] | None = None

    @property
    def model(self) -> Model:
        """The champion."""
        return self.promoted[-1][1]

    def train_first(self, rows: TrainingWindow) -> None:
        """Fit the first head."""
        head, _ = self._learn_head(self._weigh(rows), self.settings.retrain.seed)
        self.promoted.append((0, Model(head, "bootstrap", "linear")))

    def begin(self, tick: int) -> None:
        """Let the winners that are due take over, and end the retraining that is over."""
        while self._upcoming and tick >= self._upcoming[0][0]:
            self._probation = (ShadowTest(1 - self.settings.retrain.confidence), self.model, tick)
            self._promote(self._upcoming.pop(0)[1], tick)
        if self._retraining is not None and tick >= self._retraining[0]:
            self.past.append(self._retraining[1])
            self._retraining = None

    def predict(self, position: int) -> tuple[Sequence[str], Matrix, str]:
        """Predict an event with the champion."""
        start, probabilities = self._block
        if not start <= position < start + len(probabilities):
            span = range(position, min(position + PREDICTED_TOGETHER, len(self.stream)))
            start, probabilities = position, self.model.predict(self.stream.window(span)).probabilities
            self._block = (start, probabilities)
        return self.model.head.classes, probabilities[position - start], str(len(self.promoted))

    def learn(self, outcome: Outcome, tick: int) -> None:
        """Compare the champion with its predecessor, and ask the policy now and then.

        Args:
            outcome: The labelled event.
            tick: Current tick.
        """
        self._outcomes.append(outcome)
        self._watch_probation(outcome, tick)
        if self._retraining is None and self.labelled % DECIDE_EVERY == 0:
            decision = self.policy.decide(
                PolicyContext(self.labelled, tuple(self.past)), self.alerts[-200:], self._outcomes
            )
            if isinstance(decision, Retrain):
                with Clock(self.cpu, "retrain"):
                    self._retrain(decision, tick)

    def alert(self, alert: DriftAlert) -> None:
        """Do nothing: the policy sees all alerts at its next decision."""

    def counts(self) -> dict[str, Any]:
        """Return retrainings and swaps; see `Playback.counts`."""
        refreshes = sum(one.kind == "refresh" for one in self.past)
        return {
            "retrainings": len(self.past) - refreshes,
            "refreshes": refreshes,
            "fits": len(self.past),
            "swaps": len(self.promoted) - 1,
            "rollbacks": len(self.rollbacks),
            "swapped_at": [at for at, _ in self.promoted[1:]],
        }

    def _retrain(self, decision: Retrain, tick: int) -> None:
        rows = rows_since(decision.onset_at, self._outcomes)
        newest = self._outcomes[-1].occurred_at
        positions = [outcome.position for outcome in self._outcomes]
        onset = 0 if rows == 0 else len(positions) - rows
        window = self._weigh(self.stream.window(positions, onset, [outcome.label for outcome in self._outcomes]))
        recalled, winner = self._compete(window, decision, tick)
        self._upcoming = [(tick + round(RECALL_LAG * self.lag), recalled)] if recalled else []
        self._upcoming += [(tick + self.lag, winner)] if winner else []
        past = CompletedRetraining(
            self.labelled,
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
            head, old_weight = self._learn_head(train, chosen.seed)
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
        self._block = (0, self._block[1][:0])
