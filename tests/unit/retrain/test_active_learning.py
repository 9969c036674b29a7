"""Active learning: uncertain, new and drifted events come first, and no text comes twice."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from driftloop.core.models.classifier import Matrix
from retrain.labels.active_learning import rank_for_labelling


def unit(rows: np.ndarray) -> Matrix:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def spread(n: int, seed: int = 0, d: int = 16) -> Matrix:
    return unit(np.random.default_rng(seed).normal(size=(n, d)))


NONE = np.zeros((0, 16), dtype=np.float32)


def test_uncertain_events_come_first() -> None:
    probabilities = np.array([[0.99, 0.01], [0.52, 0.48], [0.8, 0.2]])
    assert rank_for_labelling(probabilities, np.eye(16, dtype=np.float32)[:3], NONE, 3) == [1, 2, 0]


def test_new_events_break_uncertainty_ties() -> None:
    """Known texts are never chosen."""
    embeddings = spread(40)
    ranked = rank_for_labelling(np.full((40, 2), 0.5), embeddings, embeddings[:39], 40)
    assert ranked == [39]


def test_drifted_events_break_remaining_ties() -> None:
    """Drifted segments come first among events that are equally uncertain and new."""
    moved = np.arange(16) >= 12
    ranked = rank_for_labelling(np.full((16, 2), 0.5), np.eye(16, dtype=np.float32), NONE, 6, drifted=moved)
    assert sorted(ranked[:4]) == [12, 13, 14, 15] and len(ranked) == 6


def test_near_duplicates_are_not_asked_twice() -> None:
    base = spread(5)
    copies = unit(np.repeat(base, 20, axis=0) + np.random.default_rng(1).normal(0, 1e-3, (100, 16)))
    probabilities = np.full((100, 2), 0.5)
    probabilities[:20] = [0.51, 0.49]
    ranked = rank_for_labelling(probabilities, copies, NONE, 5)
    assert sorted(i // 20 for i in ranked) == [0, 1, 2, 3, 4]
    assert len(rank_for_labelling(probabilities, copies, NONE, 50)) == 5


def test_ranking_is_deterministic_and_within_budget() -> None:
    probabilities = np.random.default_rng(2).dirichlet(np.ones(3), 60)
    first = rank_for_labelling(probabilities, spread(60), spread(10, 1), 7)
    assert first == rank_for_labelling(probabilities, spread(60), spread(10, 1), 7)
    assert len(set(first)) == 7
    assert rank_for_labelling(probabilities, spread(60), NONE, 0) == []
    assert rank_for_labelling(np.zeros((0, 3)), NONE, NONE, 5) == []


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 embeddings for 2 events"):
        rank_for_labelling(np.full((2, 2), 0.5), spread(3), NONE, 1)
    with pytest.raises(ValueError, match="budget of -1"):
        rank_for_labelling(np.full((2, 2), 0.5), spread(2), NONE, -1)


def drifted(seed: int) -> tuple[Matrix, np.ndarray, np.ndarray]:
    """Return rows, classes and a mark for new topics: three of nine topics appear only after the drift."""
    rng = np.random.default_rng(seed)
    topics, classes = rng.normal(size=(9, 16)), np.array([0, 1, 2, 0, 1, 2, 1, 2, 0])
    shares = np.array([0.15] * 5 + [0.1] + [0.05] * 3)
    topic = rng.choice(9, 1600, p=shares)
    return unit(topics[topic] + rng.normal(0, 0.8, (1600, 16))), classes[topic], topic >= 6


def test_ranking_after_drift_beats_random_labels() -> None:
    """Budget of labels is the same for both."""
    gains, budget = [], 40
    for seed in range(12):
        rows, truth, new = drifted(seed)
        known = np.flatnonzero(~new)[:300]
        pool = np.setdiff1d(np.arange(1000), known)
        stale = LogisticRegression().fit(rows[known], truth[known])
        asked = pool[rank_for_labelling(stale.predict_proba(rows[pool]), rows[pool], rows[known], budget)]
        chance = np.random.default_rng(seed).choice(pool, budget, replace=False)
        scores = []
        for extra in (asked, chance):
            learned = np.concatenate([known, extra])
            scores.append(LogisticRegression().fit(rows[learned], truth[learned]).score(rows[1000:], truth[1000:]))
        gains.append(scores[0] - scores[1])
    # Better on average by more than two standard errors.
    assert np.mean(gains) > 2 * np.std(gains) / np.sqrt(len(gains)) and np.mean(gains) > 0.01
