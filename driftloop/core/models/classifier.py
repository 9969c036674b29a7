"""Protocol of text classifiers, and their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]


def softmax(scores: Matrix) -> Matrix:
    """Convert scores of shape (n, k) to probabilities, float32."""
    exps = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(exps / exps.sum(axis=1, keepdims=True), dtype=np.float32)


@dataclass(frozen=True)
class Predictions:
    """Predictions for n texts over k classes."""

    classes: tuple[str, ...]
    probabilities: Matrix
    """Shape (n, k); each row sums to 1."""
    embeddings: Matrix
    """Shape (n, d): input of the head, which is stored for retrainings."""
    route: str
    """Path through the model, for example `encoder+head`."""
    cost_ms: float
    """Milliseconds spent on the whole batch."""
    reference: Matrix | None = None
    """Probabilities of the version as it was registered, shape (n, k). `None` if it has not changed since."""

    @property
    def labels(self) -> list[str]:
        """The most probable class of each of the n texts."""
        return [self.classes[i] for i in self.probabilities.argmax(axis=1)]


@runtime_checkable
class Classifier(Protocol):
    """Text classifier. `tests/contracts/test_classifiers.py` runs the same checks on every implementation."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The k classes, in the order of the columns of the probabilities."""
        ...

    @property
    def version(self) -> str:
        """The registered version, empty before registration."""
        ...

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Return embeddings of shape (n, d)."""
        ...

    def predict(self, texts: Sequence[str], embeddings: Matrix | None = None) -> Predictions:
        """Classify n texts.

        Args:
            texts: n texts.
            embeddings: Known embeddings of the texts, of shape (n, d), which replace a run of the encoder.

        Raises:
            ValueError: ``embeddings`` has another number of rows than ``texts``.
        """
        ...
