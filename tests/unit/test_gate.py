"""The gate: better beyond chance, or not."""

import random

import pytest

from retrain.gate import compare


def answers(seed: int, n: int, accuracy: float) -> list[str]:
    rng = random.Random(seed)
    return ["right" if rng.random() < accuracy else "wrong" for _ in range(n)]


def test_a_clearly_better_challenger_wins() -> None:
    verdict = compare(["right"] * 200, answers(1, 200, 0.4), answers(2, 200, 0.7))
    assert verdict.better and verdict.low > 0
    assert verdict.challenger_accuracy - verdict.champion_accuracy > 0.2
    assert verdict.low < verdict.challenger_accuracy - verdict.champion_accuracy < verdict.high


def test_the_same_answers_never_win() -> None:
    same = answers(3, 100, 0.5)
    verdict = compare(["right"] * 100, same, same)
    assert not verdict.better and (verdict.low, verdict.high) == (0.0, 0.0)


def test_a_small_difference_on_few_events_is_chance_and_on_many_is_not() -> None:
    old, new = ["right"] * 5 + ["wrong"] * 5, ["right"] * 6 + ["wrong"] * 4
    assert not compare(["right"] * 10, old, new).better
    assert compare(["right"] * 1000, old * 100, new * 100).better


def test_challengers_that_are_no_better_are_rarely_promoted() -> None:
    wins = sum(
        compare(["right"] * 100, answers(2 * i, 100, 0.6), answers(2 * i + 1, 100, 0.6)).better for i in range(200)
    )
    # A two-sided 90% interval lets one in twenty through; 200 draws of that stay under 20 with probability 0.999.
    assert wins < 20


@pytest.mark.parametrize(("truth", "old", "new"), [([], [], []), (["a"], ["a"], []), (["a", "b"], ["a"], ["a"])])
def test_unequal_or_empty_answers_are_refused(truth: list[str], old: list[str], new: list[str]) -> None:
    with pytest.raises(ValueError, match="cannot compare"):
        compare(truth, old, new)
