"""Trust in each label as it comes, from a comparison of the newest annotators."""

from __future__ import annotations

from collections import deque

import numpy as np

from driftloop.core.messages import Outcome
from retrain.labels.annotator_trust import MIN_ROWS, chance_right, judge_annotators

NEWEST = 1000
"""Labels that the annotators are judged by."""
JUDGED_EVERY = 100
"""Labels between two judgements."""


class RunningTrust:
    """Trust in the labels of one stream.

    The second opinion on a label is the prediction of its event, which was made before the label came. It spares the
    cross-validation of `retrain.labels.annotator_trust.weight_labels`. Labels have a weight of 1 while there is one
    annotator, or fewer than `MIN_ROWS` labels.
    """

    def __init__(self) -> None:
        self._newest: deque[Outcome] = deque(maxlen=NEWEST)
        self._seen = 0
        self.flip_rates: dict[str, float] = {}
        """Share of each annotator's labels that are wrong beyond the share of the others."""

    def weigh(self, outcome: Outcome) -> float:
        """Add a label, and return the chance that it is right: 1 unless its annotator flips labels beyond chance."""
        self._newest.append(outcome)
        self._seen += 1
        if self._seen % JUDGED_EVERY == 0:
            self._judge()
        rate = np.asarray(self.flip_rates.get(outcome.annotator, 0.0))
        agreement = np.asarray(outcome.probabilities.get(outcome.label, 0.0))
        return float(chance_right(rate, agreement, len(outcome.probabilities)))

    def _judge(self) -> None:
        rows = [row for row in self._newest if row.probabilities]
        if len({row.annotator for row in rows}) < 2 or len(rows) < MIN_ROWS:
            self.flip_rates = {}
            return
        classes = sorted({row.label for row in rows}.union(*(row.probabilities for row in rows)))
        probabilities = np.array([[row.probabilities.get(name, 0.0) for name in classes] for row in rows])
        trust = judge_annotators([row.annotator for row in rows], [row.label for row in rows], classes, probabilities)
        self.flip_rates = trust.flip_rates
