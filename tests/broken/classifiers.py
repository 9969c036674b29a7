"""Classifiers with one fault each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from my_package.classifier import LetterCounts


class OneLabel(LetterCounts):
    labels = ("yes",)


class Loud(LetterCounts):
    def predict(self, texts, embeddings=None):
        answers = super().predict(texts, embeddings)
        return replace(answers, probabilities=answers.probabilities * 2)


class Double(LetterCounts):
    def predict(self, texts, embeddings=None):
        answers = super().predict(texts, embeddings)
        return replace(answers, probabilities=answers.probabilities.astype(np.float64))


class Bored(LetterCounts):
    def __init__(self) -> None:
        self.weights = np.zeros((26, 2), dtype=np.float32)


class NeedsTexts(LetterCounts):
    def predict(self, texts, embeddings=None):
        if not texts:
            raise IndexError("list index out of range")
        return super().predict(texts, embeddings)


class Squeamish(LetterCounts):
    def predict(self, texts, embeddings=None):
        if len(texts) == 1 and not texts[0]:
            raise ZeroDivisionError("an empty text")
        return super().predict(texts, embeddings)


class Aloof(LetterCounts):
    """Misreads the embeddings that it is given."""

    def predict(self, texts, embeddings=None):
        return super().predict(texts, None if embeddings is None else embeddings[:, ::-1])


class Careless(LetterCounts):
    def predict(self, texts, embeddings=None):
        if embeddings is not None and len(embeddings) != len(texts):
            embeddings = None
        return super().predict(texts, embeddings)


class Relative(LetterCounts):
    """Classifies a text by its neighbours too."""

    def predict(self, texts, embeddings=None):
        answers = super().predict(texts, embeddings)
        if len(texts) < 2:
            return answers
        moved = answers.probabilities * (1 + np.arange(len(texts), dtype=np.float32)[:, None] * np.float32([0, 0.1]))
        return replace(answers, probabilities=moved / moved.sum(axis=1, keepdims=True))
