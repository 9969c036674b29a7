"""Annotator trust: annotators who flip labels are found, and drift and chance accuse none."""

from __future__ import annotations

import numpy as np
import pytest

from retrain.labels.annotator_trust import Trust, Values, judge_annotators

CLASSES = ("a", "b", "c")


def stream(
    n: int, seed: int, flips: dict[str, float], model: float | Values = 0.75, hard: Values | None = None
) -> tuple[list[str], list[str], Values, Values]:
    """Return annotators, their labels, a model's probabilities, and a mark for each flipped label.

    The model's probabilities are calibrated at ``model``; the truth follows ``hard`` instead where that is given.
    """
    rng = np.random.default_rng(seed)
    sure = np.broadcast_to(np.asarray(model), (n,))
    top = rng.integers(0, 3, n)
    probabilities = np.repeat((1 - sure)[:, None] / 2, 3, axis=1)
    probabilities[np.arange(n), top] = sure
    hit = rng.random(n) < (sure if hard is None else hard)
    truth = np.where(hit, top, (top + rng.integers(1, 3, n)) % 3)
    who = rng.choice(list(flips), n)
    flipped = rng.random(n) < np.array([flips[name] for name in who])
    given = np.where(flipped, (truth + rng.integers(1, 3, n)) % 3, truth)
    return [str(name) for name in who], [CLASSES[i] for i in given], probabilities, flipped.astype(float)


def judged(*args: object, **more: object) -> Trust:
    annotators, labels, probabilities, _ = stream(*args, **more)  # type: ignore[arg-type]
    return judge_annotators(annotators, labels, CLASSES, probabilities)


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_label_flipping_annotator_is_found(share: float) -> None:
    """Honest annotators are hardly ever accused."""
    rates = []
    for seed in range(20):
        trust = judged(1500, seed, {"liar": share, "p": 0.0, "q": 0.0, "r": 0.0})
        rates.append([trust.flip_rates[name] for name in ("liar", "p", "q", "r")])
    means = np.mean(rates, axis=0)
    assert means[0] == pytest.approx(share, abs=0.08)
    assert (np.array(rates)[:, 1:] > 0).sum() <= 4 and means[1:].max() < 0.02


def test_flipping_annotator_is_found_among_two() -> None:
    trust = judged(600, 1, {"liar": 0.4, "honest": 0.0})
    assert trust.flip_rates["liar"] > 0.25 and trust.flip_rates["honest"] == 0.0


def test_two_flipping_annotators_are_both_found() -> None:
    """Annotator with the higher rate does not hide the other."""
    trust = judged(1500, 1, {"great": 0.7, "small": 0.3, "honest": 0.0})
    assert trust.flip_rates["great"] > 0.5 and 0.2 < trust.flip_rates["small"] < 0.4
    assert trust.flip_rates["honest"] == 0.0


def test_weights_follow_flip_rates() -> None:
    annotators, labels, probabilities, flipped = stream(900, 2, {"liar": 0.4, "p": 0.0, "q": 0.0})
    trust = judge_annotators(annotators, labels, CLASSES, probabilities)
    liar = np.array(annotators) == "liar"
    assert trust.weights[~liar] == pytest.approx(1.0) and trust.training_weights[~liar] == pytest.approx(1.0)
    assert trust.weights[liar] == pytest.approx(1 - 1.5 * trust.flip_rates["liar"])
    wrong, right = liar & (flipped == 1), liar & (flipped == 0)
    assert trust.training_weights[wrong].mean() < 0.4 < 0.7 < trust.training_weights[right].mean()
    assert trust.training_weights.min() >= 0 and trust.training_weights.max() <= 1


def test_weights_stay_one_without_an_outlier() -> None:
    """Cases are one annotator, no names, and annotators who flip at the same rate."""
    for flips in ({"only": 0.3}, {"": 0.3}):
        trust = judged(200, 3, flips)
        assert trust.weights.min() == trust.training_weights.min() == 1.0
    neutral = sum(judged(300, seed, {"p": 0.1, "q": 0.1, "r": 0.1, "s": 0.1}).weights.min() == 1 for seed in range(60))
    assert neutral >= 53  # 57 of 60 are expected at the level of 5%


def test_drift_rarely_accuses_annotators() -> None:
    accused = 0
    for seed in range(40):
        late = np.arange(600) >= 300
        # The model stays as sure as it was and is right no more often than by chance.
        trust = judged(600, seed, {"p": 0.0, "q": 0.0, "r": 0.0}, hard=np.where(late, 0.35, 0.75))
        accused += trust.weights.min() < 1
    assert accused <= 5


def test_annotator_joining_after_drift_is_rarely_accused() -> None:
    accused = 0
    for seed in range(40):
        late = np.arange(600) >= 310
        annotators, labels, probabilities, _ = stream(600, seed, {"p": 0.0}, hard=np.where(late, 0.35, 0.75))
        annotators = ["late" if new else "early" for new in late]
        accused += judge_annotators(annotators, labels, CLASSES, probabilities).weights.min() < 1
    assert accused <= 5
    # In one period together the two would be compared, and the late one would stand accused.
    together = judge_annotators(annotators, labels, CLASSES, probabilities, periods=[0] * 600)
    assert together.flip_rates["late"] > 0.2


def test_annotator_of_hard_texts_is_usually_not_accused() -> None:
    hard = np.arange(600) % 10 > 0
    accused = 0
    for seed in range(40):
        _, labels, probabilities, _ = stream(600, seed, {"p": 0.0}, model=np.where(hard, 0.4, 0.9))
        annotators = ["reads the hard ones" if h else "reads the rest" for h in hard]
        accused += judge_annotators(annotators, labels, CLASSES, probabilities).weights.min() < 1
    assert accused <= 12  # one error for all annotators would accuse in half of the cases


def test_uninformative_model_accuses_no_annotator() -> None:
    trust = judged(400, 4, {"liar": 0.4, "p": 0.0}, model=0.34)
    assert trust.weights.min() == 1.0


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="for 2 labels"):
        judge_annotators(["p"], ["a", "b"], CLASSES, np.ones((2, 3)) / 3)
    with pytest.raises(ValueError, match="none of the classes"):
        judge_annotators(["p"], ["z"], CLASSES, np.ones((1, 3)) / 3)
