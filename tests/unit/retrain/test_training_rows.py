"""Training rows: of the past, a model learns the rows that are most similar to the present."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrain.candidates import training_rows as choice
from retrain.candidates.linear import learn
from retrain.training_window import TrainingWindow

KIND = 800
"""Rows of each concept in the past: the first, that comes back, and another one, which is the newer."""
RECENT = 40


def world(past: int = KIND, seed: int = 0) -> TrainingWindow:
    """Return two concepts with different texts and swapped labels, of which the first comes back."""
    rng = np.random.default_rng(seed)
    concept = np.repeat([1.0, -1.0, 1.0], [past, past, RECENT])
    mood = rng.choice([-1.0, 1.0], len(concept))
    signal = np.column_stack([6 * concept, *[0.35 * mood] * 20])
    embeddings = (signal + rng.normal(size=signal.shape)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    labels = np.where(mood * concept > 0, "good", "bad")
    names = tuple(map(str, range(len(concept))))
    return TrainingWindow(
        names,
        names,
        tuple(labels),
        embeddings,
        Path(),
        onset=2 * past,
        weights=tuple(1 + np.arange(len(concept)) / 1e6),
    )


def test_rows_similar_to_recent_ones_come_last() -> None:
    """Recent rows stay in their place."""
    window = world()
    put = choice.order_by_similarity(window)
    old = np.array(list(map(int, put.event_ids[: window.onset])))
    assert (old[-KIND:] < KIND).mean() > 0.95, "those of the concept's earlier time"
    assert sorted(old) == list(range(window.onset)) and put.onset == window.onset
    assert put.event_ids[window.onset :] == window.event_ids[window.onset :]
    for row in (0, 500, 1500, len(window) - 1):
        was = int(put.event_ids[row])
        assert put.labels[row] == window.labels[was] and put.weights[row] == window.weights[was]
        np.testing.assert_array_equal(put.embeddings[row], window.embeddings[was])


def test_short_or_one_sided_window_keeps_time_order() -> None:
    """Window has a short past, no rows after the onset, or no past."""
    short = world(choice.MAX_OLD_ROWS // 2)
    assert choice.order_by_similarity(short) is short
    ended = world().take(slice(0, 2 * KIND))
    assert choice.order_by_similarity(ended) is ended
    whole = world().take(slice(None), 0)
    assert choice.order_by_similarity(whole) is whole


def test_returning_concept_is_learnt_from_earlier_rows() -> None:
    window, later = world(), world(seed=1)
    fresh = later.take(slice(KIND), 0)

    def right(of: TrainingWindow) -> float:
        head, _ = learn(of)
        said = head.predict_proba(fresh.texts, fresh.embeddings).argmax(axis=1)
        return float(np.mean([head.classes[column] == label for column, label in zip(said, fresh.labels, strict=True)]))

    newest = window.take(slice(2 * KIND - choice.MAX_OLD_ROWS, None), choice.MAX_OLD_ROWS)  # without order
    assert right(window) > right(newest) + 0.05
