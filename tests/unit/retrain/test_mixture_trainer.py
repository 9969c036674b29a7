"""Trainer of the mixture: whoever applies its updates has the same mixture."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from msgspec.structs import replace

from driftloop.core.messages import DriftAlert, MixtureUpdate, Outcome
from driftloop.core.models.classifier import Matrix
from driftloop.core.models.mixture import Mixture
from driftloop.core.models.mixture_head import MixtureHead
from driftloop.core.models.mixture_update import UpdateSeries, apply_update, check_signature
from retrain.mixture.learner import CONCEPT, ONLINE, MixtureOptions
from retrain.mixture.trainer import BUDGET, PERIOD, MixtureTrainer
from tests import tiny

ROWS = tiny.window(200)
FIRST = 80


def outcome(at: int, flipped: bool) -> Outcome:
    label = ROWS.labels[at]
    if flipped:
        label = tiny.LABELS[(tiny.LABELS.index(label) + 1) % len(tiny.LABELS)]
    return Outcome(
        event_id=ROWS.event_ids[at], text=ROWS.texts[at], occurred_at=float(at), predicted=label, confidence=1.0,
        label=label, correct=True, model_version="4", latency_ms=0.0, labelled_at=float(at),
        probabilities={label: 1.0},
    )  # fmt: skip


def alert(onset: float) -> DriftAlert:
    return DriftAlert(
        alert_id=f"a{onset}", stream="s", detector="fused", signal="error", severity=0.3, position=0, onset=int(onset),
        outcome_offset=-1, onset_at=onset, window=1, model_version="4", detected_at=0.0,
    )  # fmt: skip


class Played:
    """A trainer whose updates another process applies."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time) -> None:
        first = ROWS.take(slice(0, FIRST))
        learner, self.head = tiny.mixture(first, MixtureOptions(shortest=40, windows=2))
        self.replica: Mixture = learner.mixture.copy()
        self.updates: list[MixtureUpdate] = []
        self._series = UpdateSeries("s", "4", tiny.KEY)
        self.trainer = MixtureTrainer(learner, self.head, self._embed, self._publish, clock, now=now)

    def _embed(self, outcomes: Sequence[Outcome]) -> Matrix:
        return ROWS.embeddings[[ROWS.event_ids.index(one.event_id) for one in outcomes]]

    def _publish(self, expert: str) -> None:
        update = self._series.make(self.trainer.learner.mixture, expert, len(self.updates), time.time())
        check_signature(update, tiny.KEY)
        self.updates.append(update)
        apply_update(self.replica, update)

    def answers(self, mixture: Mixture) -> Matrix:
        return MixtureHead(mixture, self.head.feature_map, tiny.encoder().tokenise).predict_proba(
            ROWS.texts, ROWS.embeddings
        )

    def finish(self) -> None:
        """Wait until no refit is under way or due."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            seen = len(self.updates)
            time.sleep(0.3)
            self.trainer.advance([], [])
            if len(self.updates) == seen and not self.trainer.learner.due():
                return


@pytest.fixture
def played() -> Iterator[Played]:
    made = Played()
    yield made
    made.trainer.close()


def test_applied_updates_give_the_same_mixture(played: Played) -> None:
    """Parameters travel in half precision."""
    for start in range(FIRST, 200, 8):
        known = [alert(120.0)] if start > 136 else []
        played.trainer.advance([outcome(at, at >= 120) for at in range(start, min(start + 8, 200))], known)
    played.finish()
    changed = {update.expert for update in played.updates}
    assert changed == {ONLINE, "newest-40", "newest-160", CONCEPT}
    assert [update.revision for update in played.updates] == list(range(1, len(played.updates) + 1))
    ours, theirs = played.answers(played.trainer.learner.mixture), played.answers(played.replica)
    assert np.abs(ours - theirs).max() < 0.01
    before = played.answers(Played().replica)
    assert np.abs(ours - before).max() > 0.3, "the control: it has learnt something"


def test_nothing_is_published_without_news(played: Played) -> None:
    played.finish()
    assert played.updates == []
    played.trainer.advance([], [alert(50.0)])
    assert [update.expert for update in played.updates] == [ONLINE]
    played.trainer.advance([], [alert(50.0)])
    assert len(played.updates) == 1, "a known alert changes nothing"


def test_labels_wait_for_no_refit(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of a label are there at once; a slow refit comes later."""
    monkeypatch.setattr("retrain.mixture.trainer._run", lambda fit: (time.sleep(1.0) or fit.run(), 1.0))
    began = len(played.updates)
    played.trainer.advance([outcome(at, False) for at in range(FIRST, FIRST + 40)], [])
    assert [update.expert for update in played.updates[began:]] == [ONLINE]
    assert played.trainer.busy
    played.trainer.wait()
    assert "newest-40" in [update.expert for update in played.updates[began:]] and not played.trainer.busy


def test_refits_wait_when_they_take_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels are learnt meanwhile; the control is the first refit."""
    clock = [100.0]
    played = Played(lambda: clock[0])
    monkeypatch.setattr("retrain.mixture.trainer._run", lambda fit: (fit.run(), BUDGET))
    trainer = played.trainer
    trainer.advance([outcome(at, False) for at in range(FIRST, FIRST + 30)], [])
    assert trainer.busy
    trainer.wait()
    clock[0] += PERIOD / 2
    trainer.advance([outcome(at, False) for at in range(FIRST + 30, FIRST + 60)], [])
    assert not trainer.busy and played.updates[-1].expert == ONLINE
    clock[0] += PERIOD
    trainer.advance([], [])
    assert trainer.busy
    trainer.close()


@pytest.mark.parametrize(("told", "weights"), [(True, (0.0, 0.2)), (False, (0.4, 1.0))])
def test_weight_follows_what_was_said_then(told: bool, weights: tuple[float, float]) -> None:
    """Labels come 40 events late and in runs of 20, which the texts do not show.

    The control does not say when its events were predicted: the online expert seems to know each label.
    """
    moment = [float(FIRST)]
    played = Played(now=lambda: moment[0])
    trainer = played.trainer
    for at in range(FIRST, FIRST + 400):
        moment[0] = at + 40.0
        known = outcome(at % len(ROWS), False)
        label = tiny.LABELS[at // 20 % len(tiny.LABELS)]
        trainer.advance([replace(known, label=label, predicted_at=float(at) if told else 0.0)], [])
        trainer.wait()
    trainer.close()
    mixture = trainer.learner.mixture
    least, most = weights
    assert least <= mixture.weights[mixture.names.index(ONLINE)] <= most


def test_what_was_said_before_a_drift_is_void(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = [float(FIRST)]
    played = Played(now=lambda: moment[0])
    trainer, learnt = played.trainer, []
    monkeypatch.setattr(trainer.learner, "learn", learnt.append)

    def learn(predicted_at: float) -> float | None:
        trainer.advance([replace(outcome(FIRST, False), predicted_at=predicted_at)], [])
        found: float | None = learnt[-1].online
        return found

    assert learn(FIRST - 1.0) is not None
    moment[0] += 10
    trainer.advance([], [alert(50.0)])
    assert learn(moment[0] - 1) is None
    assert learn(moment[0] + 1) is not None
    trainer.close()
