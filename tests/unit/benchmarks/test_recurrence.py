"""Recovery after a recurring drift: labels until a known concept is predicted as well as before."""

from __future__ import annotations

import numpy as np

from benchmarks.adaptation.recurrence import AFTER, recoveries

SEGMENTS = ["a"] * 1000 + ["b"] * 1000 + ["a"] * 1000
DRIFTS = (1000, 2000)


def played(back: int | None, *, share: float = 0.8) -> np.ndarray:
    """Answers right in ``share`` of cases, but never between the second drift and the event ``back``."""
    correct = np.arange(3000) % 10 < 10 * share
    correct[2000 : 3000 if back is None else back] = False
    return correct


def test_recovery_counts_labels_until_accuracy_is_back() -> None:
    """Only a drift to a concept seen before has a recovery."""
    chance = int(1.645 * (0.8 * 0.2 / AFTER) ** 0.5 / 0.8 * AFTER)
    found = recoveries(played(2300), SEGMENTS, DRIFTS, 100)
    assert len(found) == 1, "the first drift leads to a concept that nobody has seen"
    assert found[0] is not None and 200 - chance - 2 <= found[0] <= 200
    assert recoveries(played(2050), SEGMENTS, DRIFTS, 100) == [0], "back before the first label"


def test_concept_below_former_accuracy_is_not_recovered() -> None:
    assert recoveries(played(None), SEGMENTS, DRIFTS, 100) == [None]
    assert recoveries(played(2900), SEGMENTS, DRIFTS, 100) == [None], "fewer events than are asked for"


def test_concepts_that_are_all_new_have_no_recoveries() -> None:
    assert recoveries(played(2300), ["a"] * 1000 + ["b"] * 1000 + ["c"] * 1000, DRIFTS, 100) == []
