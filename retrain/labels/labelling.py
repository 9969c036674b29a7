"""Which predicted events people should label next, within a budget."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from driftloop.core.models.classifier import Matrix

Values = NDArray[np.float64]

CHUNK = 512
"""Rows whose similarities to all labelled rows are computed at once."""
MOST = 3000
"""Events looked at closely; of more, those most worth it by themselves."""
SAME = 1e-3
"""Cosine distance up to which two texts are one: the rounding of embeddings stored in 16 bits lies below."""


def rank_for_labelling(
    probabilities: NDArray[np.floating],
    embeddings: Matrix,
    labelled: Matrix,
    budget: int,
    *,
    moved: NDArray[np.bool_] | None = None,
) -> list[int]:
    """Indices of at most ``budget`` of n unlabelled events, the most worth labelling first.

    Each choice is the event that brings labelled texts closest to all that is worth knowing (facility location, Wei,
    Iyer and Bilmes 2015): the sum over all events of worth times the rise of their cosine similarity to the nearest
    labelled or chosen text. So what is new counts, outliers that stand for nothing but themselves come late, near
    duplicates bring nothing, and exact ones are left out even where the budget is not used up. An event's worth is how
    unsure the model is, 1 minus the margin between its two likeliest classes (Scheffer et al. 2001); where ``moved``,
    of shape (n,), says that it is from a segment that drifted, it is 2 whatever the model says: a model that the drift
    made wrong is often sure of it, and to ask by its doubts is then worse than to ask at random.

    ``probabilities`` has shape (n, classes), ``embeddings`` (n, d) and ``labelled`` (m, d); m may
    be 0. There is no chance in it: ties go to the older event.

    Raises:
        ValueError: the arguments are not as many, or the budget is negative.
    """
    n = len(probabilities)
    if len(embeddings) != n or (moved is not None and len(moved) != n) or budget < 0:
        raise ValueError(f"{len(embeddings)} embeddings for {n} events, and a budget of {budget}")
    worth = _uncertainty(probabilities)
    if moved is not None:
        worth = np.where(moved, 2.0, worth)
    embeddings, labelled = _unit(embeddings), _unit(labelled)
    covered = _similarity_to_nearest(embeddings, labelled)
    rows = np.sort(np.argsort(-worth * (1 - covered), kind="stable")[:MOST])
    worth, covered = worth[rows], covered[rows]
    similarity = np.asarray(embeddings[rows] @ embeddings[rows].T, dtype=np.float64)
    chosen: list[int] = []
    while len(chosen) < min(budget, len(rows)):
        gain = worth @ np.maximum(similarity - covered[:, None], 0.0)
        best = int(np.where(1 - covered > SAME, gain, 0.0).argmax())
        if 1 - covered[best] <= SAME:
            break
        chosen.append(best)
        covered = np.maximum(covered, similarity[best])
        covered[best] = 1.0
    return [int(rows[number]) for number in chosen]


def _uncertainty(probabilities: NDArray[np.floating]) -> Values:
    """Shape (n,): 1 where the two likeliest classes are as likely, 0 where one is certain; never quite 0.

    An event of which a stale model is certain may still be worth a look where it is new.
    """
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    top = np.partition(np.asarray(probabilities, dtype=np.float64), -2, axis=1)[:, -2:]
    return np.asarray(np.maximum(1 - (top[:, 1] - top[:, 0]), 1e-3))


def _unit(rows: Matrix) -> Matrix:
    """The rows (n, d), each scaled to length 1; one of zeros stays."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)) if len(rows) else rows


def _similarity_to_nearest(embeddings: Matrix, labelled: Matrix) -> Values:
    """Shape (n,): cosine similarity to the nearest labelled row, 0 where there is none or it points away."""
    if not len(labelled):
        return np.zeros(len(embeddings))
    nearest = [
        (embeddings[start : start + CHUNK] @ labelled.T).max(axis=1) for start in range(0, len(embeddings), CHUNK)
    ]
    return np.asarray(np.maximum(np.concatenate([np.zeros(0), *nearest]), 0.0))
