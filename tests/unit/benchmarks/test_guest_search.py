"""Search for guests in the in-process loop: when a candidate is there, and when it joins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from benchmarks.adaptation.guest_search import GuestSearch
from driftloop.core.messages import Outcome
from driftloop.core.models.bundle import Lineage, write_bundle
from driftloop.core.models.head import Head
from driftloop.core.settings import Settings
from retrain.fitting.sandbox import FitResult
from tests import tiny

ROWS = tiny.window(120)
SETTINGS = Settings(signing_key=tiny.KEY)
STREAM: Any = SimpleNamespace(embeddings=ROWS.embeddings)
SECONDS = 5.0
SPEED = 10.0
"""Events per second."""


def bundle(folder: Path) -> Path:
    head = Head(LogisticRegression(C=100).fit(ROWS.embeddings, np.asarray(ROWS.labels)))
    lineage = Lineage(candidate="tpot")
    write_bundle(folder, encoder=tiny.encoder(), head=head, labels=head.classes, lineage=lineage, key=tiny.KEY)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own; the encoder is exported once for all tests."""
    monkeypatch.setenv("DRIFTLOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("benchmarks.adaptation.guest_search.exported_encoder", lambda model, threads: tiny.encoder())


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GuestSearch:
    """A search whose only candidate is right, and takes five seconds to fit."""
    fitted = FitResult(bundle(tmp_path / "fitted"), SECONDS, "", False)
    made = GuestSearch(STREAM, SETTINGS, ["tpot"], SPEED)
    monkeypatch.setattr(made, "_fit", lambda name, window, limit: (fitted.bundle, fitted.seconds))
    return made


def outcome(at: int, given: float) -> Outcome:
    """A labelled event to whose true label the mixture gave this probability."""
    row = at % len(ROWS)
    label = ROWS.labels[row]
    others = [name for name in tiny.LABELS if name != label]
    return Outcome(
        event_id=str(at), text=ROWS.texts[row], occurred_at=float(at), position=row, predicted=label, confidence=given,
        label=label, correct=True, model_version="1", latency_ms=0.0, labelled_at=0.0,
        probabilities={label: given, **dict.fromkeys(others, (1 - given) / len(others))},
    )  # fmt: skip


def test_better_candidate_joins_once_it_is_fitted(search: GuestSearch) -> None:
    assert search.open == ()
    assert search.start(100, ROWS, 40.0, 99.0, 100) == SECONDS
    assert search.open == (40.0,)
    for at in range(100, 500):
        search.learn(outcome(at, 0.2))
    assert search.joining(149) == [], "its fit takes 50 events"
    (joining,) = search.joining(150)
    assert joining.joining is not None and joining.joining.name == "tpot" and joining.weight > 0.5
    (found,) = search.judged
    assert found.candidate == "tpot" and found.joined and found.position == 150
    assert found.events >= 200 and found.together > found.alone
    assert search.joining(151) == [] and search.open == ()


def test_candidate_beside_a_good_mixture_does_not_join(search: GuestSearch) -> None:
    search.start(100, ROWS, 0.0, 99.0, 100)
    for at in range(100, 900):
        search.learn(outcome(at, 0.97))
    assert search.joining(150) == [] and [found.joined for found in search.judged] == [False]


def test_next_drift_ends_the_comparison(search: GuestSearch) -> None:
    """It is judged if there are labels enough, and does not join."""
    search.start(100, ROWS, 0.0, 99.0, 100)
    for at in range(100, 500):
        search.learn(outcome(at, 0.2))
    search.end_at(350.0)
    assert search.joining(150) == [] and [found.events for found in search.judged] == [250]
    search.start(500, ROWS, 350.0, 499.0, 150)
    for at in range(500, 600):
        search.learn(outcome(at, 0.2))
    search.end_at(600.0)
    assert search.joining(900) == [] and len(search.judged) == 1, "a hundred labels are too few"


def test_equal_rows_are_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = []

    def run(name: str, window: Any, task: Any, folder: Path) -> FitResult:
        fits.append(name)
        return FitResult(bundle(folder / "bundle"), SECONDS, "", False)

    monkeypatch.setattr("benchmarks.adaptation.guest_search.sandbox.run", run)
    for _ in range(2):
        assert GuestSearch(STREAM, SETTINGS, ["tpot"], SPEED).start(0, ROWS, 0.0, 0.0, 100) == SECONDS
    assert fits == ["tpot"]
    GuestSearch(STREAM, SETTINGS, ["tpot"], SPEED).start(0, ROWS.take(slice(0, 80)), 0.0, 0.0, 80)
    GuestSearch(STREAM, SETTINGS, ["finetune"], SPEED).start(0, ROWS, 0.0, 0.0, 100)
    GuestSearch(STREAM, SETTINGS, ["finetune"], SPEED).start(0, ROWS, 0.0, 0.0, 10_000)
    assert fits == ["tpot", "tpot", "finetune", "finetune"], "the last one has more time"
