"""Classifier: yes or no by the letters of a text."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from driftloop.core.models.classifier import Matrix, Predictions


class LetterCounts:
    """Classifies a text by the share of each letter, with fixed random weights."""

    version = ""
    labels = ("no", "yes")

    def __init__(self) -> None:
        self.weights = np.random.default_rng(7).normal(size=(26, len(self.labels))).astype(np.float32)

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Return the share of each letter from a to z, shape (n, 26)."""
        counts = [[text.lower().count(chr(97 + i)) / max(len(text), 1) for i in range(26)] for text in texts]
        return np.asarray(counts, dtype=np.float32).reshape(len(texts), 26)

    def predict(self, texts: Sequence[str], embeddings: Matrix | None = None) -> Predictions:
        """Classify n texts.

        Args:
            texts: Texts to classify.
            embeddings: Result of `embed` for the texts, shape (n, 26). `None` computes them.

        Raises:
            ValueError: The number of embeddings differs from that of the texts.
        """
        began = time.perf_counter()
        if embeddings is None:
            embeddings = self.embed(texts)
        if len(embeddings) != len(texts):
            raise ValueError(f"{len(embeddings)} embeddings for {len(texts)} texts")
        scores = np.exp(3 * embeddings @ self.weights)
        return Predictions(
            classes=self.labels,
            probabilities=scores / scores.sum(axis=1, keepdims=True),
            embeddings=embeddings,
            route="letters",
            cost_ms=(time.perf_counter() - began) * 1000,
        )
