"""Concept memory and the trust in labels: what is kept, what is recalled, whose word counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from driftloop.core.models.classifier import Predictions
from retrain.evaluation.gate import compare
from retrain.labels.annotator_trust import weight_labels
from retrain.promotion.concept_memory import last_of_each, recall
from retrain.training_window import TrainingWindow


def test_memory_keeps_last_model_per_concept() -> None:
    """Champion's own concept is left out, and so are the oldest models beyond the limit."""
    promoted = [("1", "bootstrap"), ("2", "a"), ("3", "a"), ("4", "b"), ("5", "c")]
    assert last_of_each(promoted, 5) == ["1", "3", "4"]
    assert last_of_each(promoted, 2) == ["3", "4"], "the newest"
    assert last_of_each(promoted, 0) == [] and last_of_each([], 5) == []


def rows(n: int, annotators: tuple[str, ...] = ()) -> TrainingWindow:
    rng = np.random.default_rng(1)
    labels = tuple("ab"[i] for i in rng.integers(0, 2, n))
    points = np.array([[1.0, 0.0] if label == "a" else [0.0, 1.0] for label in labels])
    embeddings = (points + rng.normal(0, 0.2, (n, 2))).astype(np.float32)
    ids = tuple(map(str, range(n)))
    return TrainingWindow(ids, ids, labels, embeddings, Path("encoder"), 0, annotators=annotators)


def answers(window: TrainingWindow, right: float) -> Predictions:
    """Right in the given share of the rows, and as sure of itself everywhere."""
    told = [label if i < right * len(window) else "ab"[label == "a"] for i, label in enumerate(window.labels)]
    table = np.array([[0.8, 0.2] if label == "a" else [0.2, 0.8] for label in told], dtype=np.float32)
    return Predictions(("a", "b"), table, window.embeddings, "", 0.0)


def test_recall_finds_best_fitting_archived_model() -> None:
    """Model that does not fit better than the champion gets a verdict that says so."""
    window = rows(60)
    champion = answers(window, 0.4)
    found = recall(window, champion, {"old": answers(window, 0.5), "older": answers(window, 0.9)})
    assert found is not None and found[0] == "older" and found[1].better
    poor = recall(window, champion, {"old": answers(window, 0.42)})
    assert poor is not None and not poor[1].better, "the control"
    assert recall(window, champion, {}) is None


@pytest.mark.parametrize(
    ("right", "better", "refreshed"), [(0.9, True, True), (0.72, False, True), (0.3, False, False)]
)
def test_refresh_passes_if_not_worse(right: float, better: bool, refreshed: bool) -> None:
    """Challenger that is no refresh has to prove that it is better."""
    window = rows(60)
    said = (window.labels, answers(window, 0.7), answers(window, right))
    assert compare(*said).better is better
    assert compare(*said, refresh=True).better is refreshed


def test_contradicting_annotator_gets_lower_weight() -> None:
    n = 400
    names = tuple("xyz"[i % 3] for i in range(n))
    window = rows(n, names)
    rng = np.random.default_rng(2)
    lied = [name == "x" and rng.random() < 0.6 for name in names]
    flipped = tuple("ab"[label == "a"] if lie else label for label, lie in zip(window.labels, lied, strict=True))
    judged = weight_labels(TrainingWindow(**{**window.__dict__, "labels": flipped}))
    by_name = {
        name: np.mean([w for w, who in zip(judged.gate_weights, names, strict=True) if who == name]) for name in "xyz"
    }
    assert by_name["x"] < 0.6 and by_name["y"] == by_name["z"] == 1.0
    wrong = np.mean([w for w, lie in zip(judged.weights, lied, strict=True) if lie])
    assert wrong < 0.5, "and the lies themselves least of all"


def test_honest_or_single_annotators_keep_equal_weights() -> None:
    honest = weight_labels(rows(400, tuple("xyz"[i % 3] for i in range(400))))
    assert set(honest.weights) | set(honest.gate_weights) == {1.0}
    assert weight_labels(rows(400, ("x",) * 400)).weights == () == weight_labels(rows(400)).weights
