"""Shadow of a champion: a second model predicts the live events, until the difference is beyond chance.

A challenger whose fit took long is compared on the events since then. A replaced champion stays in shadow of its
successor for a while, and is restored if it is better.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from driftloop.core.messages import Outcome
from driftloop.core.models.bundle import BundleClassifier
from driftloop.core.models.classifier import Predictions
from driftloop.core.settings import RetrainSettings
from retrain.evaluation.sequential_test import ShadowTest
from retrain.mixture.stack import Stack

BATCH = 64
"""Events per call of `Shadow.advance`: a model with another encoder takes some 10 ms for each."""
MIXTURE_EVENTS = 200
"""Labelled events before a candidate is compared with a mixture. It learns all the time: there is no hurry."""

Predict = Callable[[BundleClassifier, Sequence[Outcome]], Predictions]


@dataclass
class Shadow:
    """One model in shadow of a champion."""

    model: BundleClassifier
    champion: str
    """The champion's version. Only its own live predictions are compared. Empty: those of any version, for a mixture
    that learns from every label."""
    since: float
    """`occurred_at` of the newest event that either model has learnt; older events are skipped."""
    most: int
    """Labelled events after which the shadow ends undecided."""
    alpha: float
    """Error rate of the sequential test."""
    until: float = math.inf
    """`occurred_at` from which on events belong to another concept; they are skipped."""
    predicted_since: float = -math.inf
    """`predicted_at` from which on events count. A mixture that answered earlier knew fewer labels than the model."""
    least: int = 0
    """Labelled events before the first decision."""
    stack: Stack | None = None
    """Stack with the champion, a mixture, which is compared in place of the model alone. `None`: the model alone."""
    waiting: deque[Outcome] = field(default_factory=deque)
    """Labelled events that are not compared yet."""
    rows: list[Outcome] = field(default_factory=list)
    """Labelled events compared so far."""
    probabilities: list[dict[str, float]] = field(default_factory=list)
    """Probabilities by class that the model in shadow, or its stack, gave each of them."""

    def __post_init__(self) -> None:
        self.test = ShadowTest(self.alpha)

    @classmethod
    def beside_mixture(
        cls,
        model: BundleClassifier,
        chosen: RetrainSettings,
        *,
        rows: int,
        since: float,
        began: float,
        until: float = math.inf,
    ) -> Shadow:
        """Return the shadow of a candidate that would join a mixture as a guest.

        It ends undecided after half as many labelled events as the concept had when the search began, since a small
        gain that lasts is worth more the longer the concept does.

        Args:
            model: The candidate.
            chosen: The [retrain] settings. Their `shadow` is the least number of events for the end.
            rows: Labelled events of the concept when the search began.
            since: `occurred_at` of the newest event that the candidate has learnt.
            began: Time at which the search began, on the clock of `predicted_at`.
            until: `occurred_at` from which on events belong to another concept.
        """
        return cls(
            model,
            "",
            since,
            max(chosen.shadow, rows // 2),
            1 - chosen.confidence,
            until=until,
            predicted_since=began,
            least=min(MIXTURE_EVENTS, chosen.shadow),
            stack=Stack(),
        )

    def offer(self, outcomes: Iterable[Outcome]) -> None:
        """Queue the labelled events that count for the comparison."""
        self.waiting.extend(filter(self._counts, outcomes))

    def end_at(self, until: float) -> None:
        """Leave out the events from another drift on.

        Args:
            until: `occurred_at` of the first event after it.
        """
        self.until = min(self.until, until)
        self.waiting = deque(filter(self._counts, self.waiting))

    def advance(self, predict: Predict) -> Literal["challenger", "champion", "undecided", "over"]:
        """Predict the next events, and return the better model.

        Returns:
            `challenger` or `champion`; `undecided` so far; `over` if it is undecided after ``most`` events.
        """
        batch = [self.waiting.popleft() for _ in range(min(BATCH, len(self.waiting), self.most - len(self.rows)))]
        if batch:
            predictions = predict(self.model, batch)
            for outcome, row in zip(batch, predictions.probabilities, strict=True):
                by_class = {name: float(p) for name, p in zip(predictions.classes, row, strict=True)}
                if self.stack is not None:
                    alone, by_class = by_class, self.stack.combine(outcome.probabilities, by_class)
                    self.stack.learn(outcome.label, outcome.probabilities, alone)
                self.rows.append(outcome)
                self.probabilities.append(by_class)
                self.test.update(outcome.label, outcome.probabilities, by_class)
        if self.test.verdict != "undecided" and len(self.rows) >= self.least:
            return self.test.verdict
        return "over" if len(self.rows) >= self.most else "undecided"

    def advance_all(self, predict: Predict) -> Literal["challenger", "champion", "undecided", "over"]:
        """Predict the queued events until one model is better; see `advance`."""
        decision: Literal["challenger", "champion", "undecided", "over"] = "undecided"
        while self.waiting and decision == "undecided":
            decision = self.advance(predict)
        return decision

    def predictions(self) -> tuple[Predictions, Predictions]:
        """Return the predictions of the champion and of the model in shadow for `rows`.

        This sorts `rows` by the time at which the events occurred.
        """
        order = sorted(range(len(self.rows)), key=lambda row: self.rows[row].occurred_at)
        self.rows, self.probabilities = (
            [self.rows[row] for row in order],
            [self.probabilities[row] for row in order],
        )
        return as_predictions([row.probabilities for row in self.rows]), as_predictions(self.probabilities)

    def _counts(self, outcome: Outcome) -> bool:
        comparable = self.champion in ("", outcome.model_version) and outcome.probabilities and not outcome.in_sample
        late_enough = not outcome.predicted_at or outcome.predicted_at > self.predicted_since
        return bool(comparable) and late_enough and self.since < outcome.occurred_at < self.until


def as_predictions(probabilities: Sequence[Mapping[str, float]], classes: tuple[str, ...] = ()) -> Predictions:
    """Return the probabilities of n events by class as predictions.

    Args:
        probabilities: Probabilities of each event.
        classes: Classes in their order; empty for those that occur, sorted.
    """
    classes = classes or tuple(sorted({name for row in probabilities for name in row}))
    table = np.array([[row.get(name, 0.0) for name in classes] for row in probabilities], dtype=np.float32)
    return Predictions(classes, table, np.zeros((len(probabilities), 0), dtype=np.float32), "", 0.0)
