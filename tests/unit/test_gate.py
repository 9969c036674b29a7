"""The gate: better beyond chance, or not."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from driftloop.classifiers.base import Predictions
from retrain.gate import compare


def said(labels: Sequence[str], sure: float = 0.7) -> Predictions:
    """Answers with these labels, each with the probability ``sure``, out of `right` and `wrong`."""
    rows = [[sure, 1 - sure] if label == "right" else [1 - sure, sure] for label in labels]
    probabilities = np.array(rows, dtype=np.float32).reshape(-1, 2)
    return Predictions(("right", "wrong"), probabilities, np.zeros((len(labels), 1), dtype=np.float32), "test", 0.0)


def answers(seed: int, n: int, accuracy: float) -> Predictions:
    rng = random.Random(seed)
    return said(["right" if rng.random() < accuracy else "wrong" for _ in range(n)])


def test_a_clearly_better_challenger_wins() -> None:
    verdict = compare(["right"] * 200, answers(1, 200, 0.4), answers(2, 200, 0.7))
    assert verdict.better and verdict.low > 0
    assert verdict.challenger_accuracy - verdict.champion_accuracy > 0.2
    assert verdict.low < verdict.challenger_accuracy - verdict.champion_accuracy < verdict.high


def test_the_same_answers_never_win() -> None:
    same = answers(3, 100, 0.5)
    verdict = compare(["right"] * 100, same, same)
    assert not verdict.better
    assert (verdict.low, verdict.high, verdict.brier_low, verdict.brier_high) == (0.0, 0.0, 0.0, 0.0)


def test_a_small_difference_on_few_events_is_chance_and_on_many_is_not() -> None:
    old, new = ["right"] * 5 + ["wrong"] * 5, ["right"] * 6 + ["wrong"] * 4
    assert not compare(["right"] * 10, said(old), said(new)).better
    assert compare(["right"] * 1000, said(old * 100), said(new * 100)).better


def test_better_probabilities_win_where_the_accuracy_cannot_tell() -> None:
    labels = ["right"] * 24 + ["wrong"] * 6
    truth = ["right"] * 30
    assert compare(truth, said(labels, 0.55), said(labels, 0.7)).better
    assert not compare(truth, said(labels, 0.7), said(labels, 0.55)).better


def test_better_probabilities_do_not_excuse_a_lower_accuracy() -> None:
    truth = ["right"] * 100
    careful = said(["right"] * 80 + ["wrong"] * 20, 0.51)
    bold = said(["right"] * 79 + ["wrong"] * 21, 0.8)
    verdict = compare(truth, careful, bold)
    assert verdict.brier_low > 0 and not verdict.better


def test_a_class_that_a_model_cannot_name_counts_as_wrong() -> None:
    blind = Predictions(
        ("right",), np.ones((40, 1), dtype=np.float32), np.zeros((40, 1), dtype=np.float32), "test", 0.0
    )
    seeing = said(["wrong"] * 40)
    verdict = compare(["wrong"] * 40, blind, seeing)
    assert verdict.better and verdict.champion_accuracy == 0.0


def test_challengers_that_are_no_better_are_rarely_promoted() -> None:
    wins = sum(
        compare(["right"] * 100, answers(2 * i, 100, 0.6), answers(2 * i + 1, 100, 0.6)).better for i in range(200)
    )
    # A two-sided 90% interval lets one in twenty through; 200 draws of that stay under 20 with probability 0.999.
    assert wins < 20


@pytest.mark.parametrize(("truth", "old", "new"), [([], [], []), (["a"], ["a"], []), (["a", "b"], ["a"], ["a"])])
def test_unequal_or_empty_answers_are_refused(truth: list[str], old: list[str], new: list[str]) -> None:
    with pytest.raises(ValueError, match="cannot compare"):
        compare(truth, said(old), said(new))
