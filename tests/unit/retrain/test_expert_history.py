"""Earlier states of the online expert."""

from __future__ import annotations

import numpy as np
import pytest

from driftloop.core.models.mixture import LinearWeights
from retrain.mixture.expert_history import UNKNOWN, ExpertHistory

TEXT = np.asarray([1.0, 0.0], dtype=np.float32)


def state(score: float) -> LinearWeights:
    """An expert that gives a text the class b with this score, and a with 0."""
    embedding = np.asarray([[0.0, score], [0.0, 0.0]], dtype=np.float32)
    return LinearWeights(("a", "b"), embedding, np.zeros((0, 2), np.float32), np.zeros(2, np.float32))


def logistic(score: float) -> float:
    return 1 / (1 + np.exp(-score))


@pytest.mark.parametrize(("time", "score"), [(5.0, -1.0), (10.0, -1.0), (19.9, -1.0), (20.0, 2.0), (99.0, 3.0)])
def test_state_at_the_prediction_answers(time: float, score: float) -> None:
    history = ExpertHistory()
    for since, known in ((10.0, -1.0), (20.0, 2.0), (30.0, 3.0)):
        history.note(state(known), since)
    assert history.probability(TEXT, "b", time) == pytest.approx(logistic(score))
    assert history.probability(TEXT, "c", time) == UNKNOWN


def test_oldest_states_are_forgotten() -> None:
    history = ExpertHistory(limit=2 * state(0).embedding.nbytes)
    for at in range(5):
        history.note(state(at), float(at))
    assert history.probability(TEXT, "b", 0.0) == pytest.approx(logistic(3))
    assert history.probability(TEXT, "b", 4.0) == pytest.approx(logistic(4))


def test_newest_state_is_always_kept() -> None:
    history = ExpertHistory(limit=1)
    for at in range(3):
        history.note(state(at), float(at))
    assert history.probability(TEXT, "b", 0.0) == pytest.approx(logistic(2))
