"""Models in shadow: they answer the live events beside the champion until the difference is beyond chance.

A challenger whose fit took long is tried on the events that came meanwhile and on the next ones; a predecessor is kept
for a while after it was replaced, and comes back where it turns out to be better.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from driftloop.core.messages import Outcome
from driftloop.core.models.bundle import BundleClassifier
from driftloop.core.models.classifier import Predictions
from retrain.evaluation.sequential_test import ShadowTest

AT_ONCE = 64
"""Events answered in one go: a model with an encoder of its own takes some 10 ms for each."""

Answer = Callable[[BundleClassifier, Sequence[Outcome]], Predictions]


@dataclass
class Shadow:
    """One model in shadow of a champion."""

    model: BundleClassifier
    champion: str
    """The champion's version: only what it said live is compared."""
    since: float
    """`occurred_at` of the newest event that either has learnt; older events are passed over."""
    most: int
    """Labelled events after which it is over, decided or not."""
    alpha: float
    waiting: deque[Outcome] = field(default_factory=deque)
    rows: list[Outcome] = field(default_factory=list)
    """The events compared on so far."""
    said: list[dict[str, float]] = field(default_factory=list)
    """What the model in shadow said to them."""

    def __post_init__(self) -> None:
        self.test = ShadowTest(self.alpha)

    def offer(self, outcomes: Iterable[Outcome]) -> None:
        """Take labelled events; those that do not count are passed over."""
        for outcome in outcomes:
            counts = outcome.model_version == self.champion and not outcome.in_sample and outcome.probabilities
            if counts and outcome.occurred_at > self.since:
                self.waiting.append(outcome)

    def work(self, answer: Answer) -> Literal["challenger", "champion", "undecided", "over"]:
        """Answer the next few events, and say who is better: `over` where nobody is after the most events."""
        batch = [self.waiting.popleft() for _ in range(min(AT_ONCE, len(self.waiting), self.most - len(self.rows)))]
        if batch:
            answers = answer(self.model, batch)
            for outcome, row in zip(batch, answers.probabilities, strict=True):
                said = {name: float(p) for name, p in zip(answers.classes, row, strict=True)}
                self.rows.append(outcome)
                self.said.append(said)
                self.test.update(outcome.label, outcome.probabilities, said)
        if self.test.verdict != "undecided":
            return self.test.verdict
        return "over" if len(self.rows) >= self.most else "undecided"

    def answers(self) -> tuple[Predictions, Predictions]:
        """What the champion and the model in shadow said to `rows`, all of them put in the order of the events."""
        order = sorted(range(len(self.rows)), key=lambda row: self.rows[row].occurred_at)
        self.rows, self.said = [self.rows[row] for row in order], [self.said[row] for row in order]
        return _predictions([row.probabilities for row in self.rows]), _predictions(self.said)


def _predictions(said: Sequence[dict[str, float]]) -> Predictions:
    classes = tuple(sorted({name for row in said for name in row}))
    table = np.array([[row.get(name, 0.0) for name in classes] for row in said], dtype=np.float32)
    return Predictions(classes, table, np.zeros((len(said), 0), dtype=np.float32), "", 0.0)
