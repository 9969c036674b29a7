"""Features of the experts of a mixture: widened embeddings, hashed words, and the probabilities of guests.

A linear expert on embeddings and words cannot bend. With the values of a kernel beside the embedding it can: it is then
a kernel machine, and is fitted as fast as before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from driftloop.core.models.classifier import Matrix
from driftloop.core.models.first_stage import count_tokens, inverse_document_frequency, normalise_rows

COLUMNS = 1 << 14
"""Hash values of tokens and pairs of tokens that the experts tell apart."""
DIRECTIONS = 128
"""Principal components of the embeddings, in which the kernel measures distances."""
LANDMARKS = 400
"""Texts that the kernel compares others with. Its values have as many columns at most."""
WIDTH = 0.5
"""Width of the kernel, in parts of the median squared distance of two landmarks."""
EMPHASIS = 2.0
"""Largest length of a row of kernel values."""
LEAST_EIGENVALUE = 1e-6
"""Smallest eigenvalue of the landmarks' kernel, in parts of the largest. Equal landmarks have smaller ones."""


@dataclass(frozen=True)
class Features:
    """Features of n texts."""

    embeddings: Matrix
    """Widened embeddings, shape (n, d)."""
    words: sp.csr_matrix
    """TF-IDF of the hashed tokens and pairs of tokens, each row of unit length. Shape (n, `COLUMNS`)."""
    guests: Mapping[str, Matrix] = field(default_factory=dict)
    """Probabilities of each guest that was asked, shape (n, k)."""

    def __len__(self) -> int:
        return len(self.embeddings)


class WordHasher:
    """TF-IDF of hashed tokens.

    Args:
        idf: Inverse document frequency of each column, shape (`COLUMNS`,).
    """

    def __init__(self, idf: Matrix) -> None:
        self.idf = idf

    @classmethod
    def fit(cls, tokens: Sequence[Sequence[int]]) -> WordHasher:
        """Return a hasher with the document frequencies of n texts, given as the encoder's tokens."""
        occurs = np.asarray(_fold(tokens).sum(axis=0)).ravel()
        return cls(inverse_document_frequency(occurs, len(tokens)))

    def transform(self, tokens: Sequence[Sequence[int]]) -> sp.csr_matrix:
        """Return the columns of n texts, shape (n, `COLUMNS`)."""
        found = _fold(tokens)
        found.data = self.idf[found.indices]
        return normalise_rows(found)


@dataclass(frozen=True)
class Kernel:
    """Radial basis functions of embeddings, by the Nyström method.

    Williams and Seeger, "Using the Nyström Method to Speed Up Kernel Machines" (NIPS 2000). The inner product of two
    rows of values approximates ``emphasis² exp(-distance² / width)`` of their embeddings.
    """

    mean: Matrix
    """Mean embedding, shape (d,)."""
    directions: Matrix
    """Principal components of the embeddings, shape (d, p)."""
    landmarks: Matrix
    """Embeddings of q texts in these components, shape (q, p)."""
    projection: Matrix
    """Map of the kernel with each landmark to the values, shape (q, r)."""
    width: Matrix
    """Squared distance at which the kernel has fallen to 1/e, shape (1,)."""

    @classmethod
    def fit(cls, embeddings: Matrix, emphasis: float = EMPHASIS) -> Kernel:
        """Return the kernel with landmarks among n embeddings.

        Args:
            embeddings: Shape (n, d).
            emphasis: Largest length of a row of values. An embedding has that of its two parts of unit length.
        """
        mean = embeddings.mean(axis=0)
        rows = embeddings[np.linspace(0, len(embeddings) - 1, min(LANDMARKS, len(embeddings))).astype(int)]
        directions = np.linalg.svd(embeddings - mean, full_matrices=False)[2][:DIRECTIONS].T
        landmarks = np.asarray((rows - mean) @ directions, dtype=np.float32)
        distances = _squared_distances(landmarks, landmarks)
        apart = distances[distances > LEAST_EIGENVALUE]
        width = WIDTH * float(np.median(apart)) if len(apart) else 1.0
        values, vectors = np.linalg.eigh(np.exp(-distances.astype(np.float64) / width))
        kept = values > LEAST_EIGENVALUE * values[-1]
        projection = emphasis * vectors[:, kept] / np.sqrt(values[kept])
        parts = (mean, np.ascontiguousarray(directions), landmarks, projection, np.asarray([width]))
        return cls(*(np.asarray(part, dtype=np.float32) for part in parts))

    def transform(self, embeddings: Matrix) -> Matrix:
        """Return the values of n embeddings of shape (n, d). Shape (n, r)."""
        distances = _squared_distances((embeddings - self.mean) @ self.directions, self.landmarks)
        return np.asarray(np.exp(-distances / self.width) @ self.projection, dtype=np.float32)


@dataclass(frozen=True)
class FeatureMap:
    """Map of texts to the features of the experts. It is fitted on the first texts and then stays as it is."""

    words: WordHasher
    kernel: Kernel

    @classmethod
    def fit(cls, embeddings: Matrix, tokens: Sequence[Sequence[int]], emphasis: float = EMPHASIS) -> FeatureMap:
        """Return a map for texts like n given ones.

        Args:
            embeddings: Their embeddings, shape (n, d).
            tokens: Their tokens, from the encoder's tokeniser.
            emphasis: Largest length of a row of kernel values.
        """
        return cls(WordHasher.fit(tokens), Kernel.fit(embeddings, emphasis))

    def transform(
        self, embeddings: Matrix, tokens: Sequence[Sequence[int]], guests: Mapping[str, Matrix] | None = None
    ) -> Features:
        """Return the features of n texts.

        Args:
            embeddings: Their embeddings, shape (n, d).
            tokens: Their tokens.
            guests: Probabilities of each guest that was asked, shape (n, k).
        """
        wide = np.hstack([embeddings, self.kernel.transform(embeddings)])
        return Features(wide, self.words.transform(tokens), guests or {})


def _squared_distances(rows: NDArray[np.floating], others: NDArray[np.floating]) -> Matrix:
    """Return the squared Euclidean distances of n rows to m others, shape (n, m)."""
    squares = (rows**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * rows @ others.T
    return np.asarray(np.maximum(squares, 0), dtype=np.float32)


def _fold(tokens: Sequence[Sequence[int]]) -> sp.csr_matrix:
    """Return ones at the hashed tokens of n texts, shape (n, `COLUMNS`)."""
    counts = count_tokens(tokens)
    indices = counts.indices % COLUMNS
    folded = sp.csr_matrix((counts.data, indices, counts.indptr), shape=(len(tokens), COLUMNS))
    folded.sum_duplicates()
    folded.data[:] = 1
    return folded
