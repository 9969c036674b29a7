"""Mixture of experts: softmax regressions on the same features, weighted by how well each does at present.

All experts see the widened embedding of a text and its hashed tokens, so m experts for k classes are one linear map
with m * k outputs. Its cost per event is a fraction of a percent of the encoder's.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftloop.core.models.classifier import Matrix, softmax
from driftloop.core.models.expert_features import COLUMNS, Features

NEVER = -9.0
"""Score of a class that an expert has not seen: a probability of about 1e-4."""


@dataclass(frozen=True)
class LinearWeights:
    """Softmax regression for k classes."""

    classes: tuple[str, ...]
    embedding: Matrix
    """Shape (d, k)."""
    words: Matrix
    """Shape (`COLUMNS`, k)."""
    bias: Matrix
    """Shape (k,)."""


class Mixture:
    """Experts and their weights.

    Args:
        names: Names of the m experts.
        classes: The k classes.
        dimension: Dimension of a widened embedding, d.
    """

    def __init__(self, names: Sequence[str], classes: Sequence[str], dimension: int) -> None:
        self.names = tuple(names)
        self.classes = tuple(classes)
        m, k = len(names), len(classes)
        self.weights: NDArray[np.float64] = np.full(m, 1 / m)
        """Weight of each expert, shape (m,). They sum to 1."""
        self.embedding = np.zeros((dimension, m, k), dtype=np.float32)
        self.words = np.zeros((COLUMNS, m, k), dtype=np.float32)
        self.bias = np.full((m, k), NEVER, dtype=np.float32)
        self.guests: tuple[str, ...] = ()
        """Experts whose probabilities come with the features."""

    def add_guest(self, name: str, weight: float) -> None:
        """Add a guest, in place of one with the same name.

        Args:
            name: Name of the expert.
            weight: Its weight. The others share the rest as before.
        """
        self.remove_guest(name)
        self.names, self.guests = (*self.names, name), (*self.guests, name)
        self.weights = np.append(self.weights * (1 - weight), weight)
        pad = ((0, 0), (0, 1), (0, 0))
        self.embedding, self.words = np.pad(self.embedding, pad), np.pad(self.words, pad)
        self.bias = np.pad(self.bias, pad[1:], constant_values=NEVER)

    @property
    def idle_guests(self) -> tuple[str, ...]:
        """Guests with less than half of an equal share of the weight: each may cost a second pass."""
        weights = dict(zip(self.names, self.weights, strict=True))
        return tuple(guest for guest in self.guests if weights[guest] < 0.5 / len(weights))

    def remove_guest(self, name: str) -> None:
        """Remove a guest, if it is there."""
        if name not in self.guests:
            return
        kept = [at for at, one in enumerate(self.names) if one != name]
        self.names = tuple(self.names[at] for at in kept)
        self.guests = tuple(one for one in self.guests if one != name)
        self.weights = self.weights[kept] / self.weights[kept].sum()
        self.embedding, self.words, self.bias = self.embedding[:, kept], self.words[:, kept], self.bias[kept]

    def set_expert(self, name: str, weights: LinearWeights) -> None:
        """Replace an expert. Classes that are new to the mixture are added.

        Args:
            name: Name of the expert.
            weights: Its weights.
        """
        self.add_classes(weights.classes)
        expert = self.names.index(name)
        columns = [self.classes.index(one) for one in weights.classes]
        self.embedding[:, expert], self.words[:, expert], self.bias[expert] = 0, 0, NEVER
        self.embedding[:, expert, columns] = weights.embedding
        self.words[:, expert, columns] = weights.words
        self.bias[expert, columns] = weights.bias

    def expert(self, name: str) -> LinearWeights:
        """Return the weights of an expert, for all classes of the mixture."""
        at = self.names.index(name)
        parts = self.embedding[:, at], self.words[:, at], self.bias[at]
        return LinearWeights(self.classes, *(part.copy() for part in parts))

    def copy(self) -> Mixture:
        """Return a mixture that shares nothing with this one."""
        return copy.deepcopy(self)

    def add_classes(self, classes: Sequence[str]) -> None:
        """Add the classes that the mixture does not have. No expert has seen them."""
        new = [one for one in dict.fromkeys(classes) if one not in self.classes]
        if not new:
            return
        self.classes += tuple(new)
        pad = ((0, 0), (0, 0), (0, len(new)))
        self.embedding, self.words = np.pad(self.embedding, pad), np.pad(self.words, pad)
        self.bias = np.pad(self.bias, pad[1:], constant_values=NEVER)

    def expert_probabilities(self, features: Features) -> Matrix:
        """Return the probabilities of each expert for n texts, shape (n, m, k)."""
        d, m, k = self.embedding.shape
        scores = features.embeddings @ self.embedding.reshape(d, m * k)
        words = self.words.reshape(COLUMNS, m * k)
        if len(features) == 1:  # scipy's product costs ten times the arithmetic for a single row
            scores += features.words.data @ words[features.words.indices]
        else:
            scores += features.words @ words
        scores = scores.reshape(-1, m, k) + self.bias
        found = softmax(scores.reshape(-1, k)).reshape(scores.shape)
        for name in features.guests.keys() & set(self.guests):
            at, given = self.names.index(name), features.guests[name][:, :k]
            found[:, at] = 0
            found[:, at, : given.shape[1]] = given  # classes that came later are behind
        return found

    def predict_proba(self, features: Features) -> Matrix:
        """Return the weighted mean of the experts' probabilities, shape (n, k)."""
        mean = np.einsum("m,nmk->nk", self.weights, self.expert_probabilities(features))
        return np.asarray(mean, dtype=np.float32)
