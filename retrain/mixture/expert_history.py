"""Earlier states of the online expert: a label tells how good it was when it predicted, not how good it is by now.

Labels come late. Where neighbouring events have equal labels, an expert that learns from each label seems to know the
next one when it comes, because it has just learnt those before it. It did not know it when the event was predicted. The
other experts are fitted again on many labels, so their present state is as good a measure, and an earlier one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

from driftloop.core.models.classifier import Matrix, softmax
from driftloop.core.models.mixture import LinearWeights

LIMIT = 32 * 1024 * 1024
"""Bytes of the states that are kept. For four classes they are the states of some minutes."""
UNKNOWN = 1e-4
"""Probability of a class that the expert has not seen."""


class ExpertHistory:
    """States of an expert on embeddings over time.

    Args:
        limit: Bytes of the states that are kept. The newest one always is.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._times: deque[float] = deque()
        self._states: deque[LinearWeights] = deque()

    def note(self, weights: LinearWeights, time: float) -> None:
        """Take a new state.

        Args:
            weights: Weights of the expert. It reads no words.
            time: Time from which on it answers, in Unix seconds.
        """
        self._times.append(time)
        self._states.append(weights)
        while len(self._states) > 1 and len(self._states) * weights.embedding.nbytes > self._limit:
            self._times.popleft()
            self._states.popleft()

    def probability(self, embedding: Matrix, label: str, time: float) -> float:
        """Return the probability that the expert gave to a label. Before the oldest state, it is that of the oldest.

        Args:
            embedding: Widened embedding of the text, shape (d,).
            label: The true label.
            time: Time of the prediction, in Unix seconds.
        """
        weights = self._states[max(0, bisect_right(self._times, time) - 1)]
        if label not in weights.classes:
            return UNKNOWN
        scores = embedding @ weights.embedding + weights.bias
        return float(softmax(scores[None])[0, weights.classes.index(label)])
