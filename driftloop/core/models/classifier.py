"""What a classifier is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]


def softmax(scores: Matrix) -> Matrix:
    """Scores of shape (n, k) as probabilities, float32."""
    exps = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(exps / exps.sum(axis=1, keepdims=True), dtype=np.float32)


@dataclass(frozen=True)
class Predictions:
    """The answers for n texts over k classes."""

    classes: tuple[str, ...]
    probabilities: Matrix
    """Shape (n, k); each row sums to 1."""
    embeddings: Matrix
    """Shape (n, d); what the head saw, to be kept for retraining."""
    route: str
    """Which path answered, for instance `encoder+skops`."""
    cost_ms: float
    """Milliseconds spent on the whole batch."""

    @property
    def labels(self) -> list[str]:
        """The most probable class of each text, n of them."""
        return [self.classes[i] for i in self.probabilities.argmax(axis=1)]


@runtime_checkable
class Classifier(Protocol):
    """A text classifier. `tests/contracts/test_classifiers.py` runs the same checks on each of them."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The k classes, in the order of the columns of the probabilities."""
        ...

    @property
    def version(self) -> str:
        """The registered version, empty before registration."""
        ...

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Embeddings of shape (n, d), all of the same length."""
        ...

    def predict(self, texts: Sequence[str], embeddings: Matrix | None = None) -> Predictions:
        """Classify n texts; ``embeddings`` of shape (n, d) spares the encoder where the head needs nothing else.

        Raises:
            ValueError: ``embeddings`` has another number of rows than ``texts``.
        """
        ...
