"""Trust in each label as it comes."""

from __future__ import annotations

import numpy as np
import pytest

from driftloop.core.messages import Outcome
from retrain.labels.running_trust import JUDGED_EVERY, RunningTrust


def outcomes(n: int, flipped: float, annotators: tuple[str, ...] = ("ann", "bob", "liar")) -> list[Outcome]:
    """Return labelled events whose model is right in 85 of 100; ``liar`` flips a share of the labels."""
    rng = np.random.default_rng(3)
    made = []
    for at in range(n):
        truth, annotator = str(rng.choice(["no", "yes"])), annotators[at % len(annotators)]
        other = "yes" if truth == "no" else "no"
        guess = truth if rng.random() < 0.85 else other
        label = other if annotator == "liar" and rng.random() < flipped else truth
        probabilities = {guess: 0.85, "no" if guess == "yes" else "yes": 0.15}
        made.append(
            Outcome(
                event_id=f"e{at}", text="", occurred_at=float(at), predicted=guess, confidence=0.85, label=label,
                correct=label == guess, model_version="1", latency_ms=0.0, labelled_at=float(at),
                probabilities=probabilities, annotator=annotator,
            )
        )  # fmt: skip
    return made


def test_annotator_who_flips_labels_loses_trust() -> None:
    trust = RunningTrust()
    weights = [trust.weigh(one) for one in outcomes(900, 0.4)]
    assert trust.flip_rates["liar"] == pytest.approx(0.4, abs=0.12)
    assert trust.flip_rates["ann"] == trust.flip_rates["bob"] == 0
    doubtful = [weight for weight, one in zip(weights, outcomes(900, 0.4), strict=True) if weight < 0.5]
    assert weights[: JUDGED_EVERY - 1] == [1.0] * (JUDGED_EVERY - 1), "nobody is judged before"
    assert len(doubtful) > 50
    unlikely = [weight < 0.5 for weight, one in zip(weights, outcomes(900, 0.4), strict=True) if not one.correct]
    assert sum(unlikely) == len(doubtful), "only labels that the model finds unlikely"


@pytest.mark.parametrize("annotators", [("ann", "bob", "eve"), ("liar",)])
def test_equal_or_single_annotators_are_trusted(annotators: tuple[str, ...]) -> None:
    """One who flips labels alone cannot be told from a weak model."""
    trust = RunningTrust()
    assert {trust.weigh(one) for one in outcomes(600, 0.4, annotators)} == {1.0}
