"""Shadow of a champion: the events that count, and what is compared on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from driftloop.core.messages import Outcome
from driftloop.core.models.classifier import Predictions
from driftloop.core.settings import RetrainSettings
from retrain.evaluation.shadow import Shadow
from retrain.mixture.stack import Stack

NO_MODEL: Any = None


def outcome(at: int, said: float = 0.9, version: str = "1", **fields: Any) -> Outcome:
    return Outcome(
        event_id=str(at), text="", occurred_at=float(at), predicted="a", confidence=said, label="a", correct=True,
        model_version=version, latency_ms=0.0, labelled_at=0.0, probabilities={"a": said, "b": 1 - said}, **fields,
    )  # fmt: skip


def says(share: float) -> Any:
    """A model that gives the true label this probability."""

    def predict(_: Any, outcomes: Sequence[Outcome]) -> Predictions:
        table = np.tile([share, 1 - share], (len(outcomes), 1)).astype(np.float32)
        return Predictions(("a", "b"), table, np.zeros((len(outcomes), 0), np.float32), "", 0.0)

    return predict


def shadow(champion: str = "1", **fields: Any) -> Shadow:
    return Shadow(NO_MODEL, champion, 10.0, 600, 0.1, **fields)


def counted(made: Shadow, *outcomes: Outcome) -> list[str]:
    made.offer(outcomes)
    return [one.event_id for one in made.waiting]


def test_only_live_answers_of_the_champion_count() -> None:
    seen = (outcome(5), outcome(11), outcome(12, version="2"), outcome(13, in_sample=True), outcome(14))
    assert counted(shadow(), *seen) == ["11", "14"]
    assert counted(shadow(""), *seen) == ["11", "12", "14"], "a mixture keeps learning under each version"


def test_events_of_the_next_concept_do_not_count() -> None:
    made = shadow(until=14.0)
    assert counted(made, *(outcome(at) for at in range(11, 18))) == ["11", "12", "13"]
    made.end_at(12.0)
    made.end_at(13.0)
    assert [one.event_id for one in made.waiting] == ["11"]
    assert counted(made, outcome(12)) == ["11"]


def test_answers_from_before_the_search_do_not_count() -> None:
    """The mixture knew fewer labels then. Outcomes of earlier versions of driftloop do not say when."""
    made = shadow("", predicted_since=50.0)
    assert counted(made, outcome(11, predicted_at=50.0), outcome(12, predicted_at=50.5), outcome(13)) == ["12", "13"]


@pytest.mark.parametrize(("least", "decided_after"), [(0, 64), (200, 256)])
def test_decision_waits_for_the_least_events(least: int, decided_after: int) -> None:
    """A call compares 64 events; the champion is wrong on all of them."""
    made = shadow(least=least)
    made.offer(outcome(at, said=0.1) for at in range(11, 400))
    while made.advance(says(0.9)) == "undecided":
        pass
    assert made.test.verdict == "challenger" and len(made.rows) == decided_after


def test_stack_is_compared_in_place_of_the_model() -> None:
    """Two models that are right together as often as the better of them."""
    made, alone = shadow("", stack=Stack()), shadow("")
    for one in (made, alone):
        one.offer(outcome(at, said=0.7) for at in range(11, 75))
        one.advance(says(0.2))
    assert alone.probabilities[0]["a"] == pytest.approx(0.2)
    assert made.probabilities[0]["a"] == pytest.approx(0.45), "both have half of the weight"
    assert made.probabilities[-1]["a"] > 0.65, "the labels speak for the mixture"
    assert made.stack is not None and made.stack.weight < 0.1


@pytest.mark.parametrize(("rows", "most"), [(300, 600), (4500, 2250)])
def test_comparison_grows_with_the_concept(rows: int, most: int) -> None:
    """An equal candidate is compared to the end."""
    made = Shadow.beside_mixture(NO_MODEL, RetrainSettings(shadow=600), rows=rows, since=10.0, began=0.0)
    made.offer(outcome(at, said=0.6) for at in range(11, 4000))
    assert made.advance_all(says(0.6)) == "over" and len(made.rows) == most
