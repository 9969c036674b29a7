"""Reproduction of a case: the policy's inputs as they were, the same decision, and the same weights."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from driftloop.core.kafka.topic_history import TopicHistory
from driftloop.core.messages import DriftAlert, Outcome, Retraining, decode
from driftloop.core.models.bundle import Lineage
from driftloop.core.models.head import Head, load_head, weights_digest
from driftloop.core.settings import RetrainSettings
from retrain.candidates.linear import fit_head, learn
from retrain.policies.base import CompletedRetraining, PolicyContext, Retrain
from retrain.policies.catalogue import make_policy
from retrain.reproduce import (
    ReproductionStep,
    inputs_of,
    outcomes_between,
    recorded_settings,
    refit_head,
    repeat_decision,
)
from retrain.training_window import TrainingWindow
from tests import tiny
from tests.unit.serving.test_views import made

RECORDED = Path(__file__).parents[2] / "recorded"
CHOSEN = RetrainSettings(cooldown=0, window=500, mixture=False)
OPTIONS: dict[str, dict[str, Any]] = {
    "KNeighborsClassifier": {},
    "ExtraTreesClassifier": {"n_estimators": 5, "random_state": 1},
    "MLPClassifier": {"solver": "lbfgs", "random_state": 1},
    "SGDClassifier": {"random_state": 1},
}


def outcome(i: int, event: int | None = None) -> tuple[int, Outcome]:
    known = {"position": i, "occurred_at": float(i), "event_id": f"e{i if event is None else event}"}
    return i, made(Outcome, **known)


def alert(onset: int, name: str, detected_at: float) -> DriftAlert:
    known = {"alert_id": name, "position": onset + 20, "onset": onset, "onset_at": float(onset)}
    return made(DriftAlert, detected_at=detected_at, **known)


def queued(decision: Retrain, now: PolicyContext, last: int, at: float, **scores: Any) -> Retraining:
    """Return the message that the worker writes about a decision."""
    rows = sum(i >= decision.onset_at for i in range(last + 1))
    inputs = {"onset_at": decision.onset_at, "first_offset": 0, "last_offset": last, "labelled": now.labelled}
    known = {"state": "queued", "run_id": f"run-{last}", "trigger": decision.trigger, "reason": decision.reason}
    line = made(Retraining, at=at, scores={**inputs, "rows": rows, **scores}, **known)
    return replace(line, kind=decision.kind)


def story() -> TopicHistory:
    """Return the history of two rounds after an alert at 200, and of an alert that comes later."""
    outcomes = [outcome(i) for i in range(400)]
    alerts = [alert(200, "first", 10.0), alert(390, "later", 90.0)]
    policy = make_policy(CHOSEN)
    diary: list[Retraining] = []
    pasts: list[CompletedRetraining] = []
    for last, at in ((270, 20.0), (310, 40.0)):
        now = PolicyContext(last + 1, tuple(pasts))
        decision = policy.decide(now, alerts[:1], [one for _, one in outcomes[: last + 1]])
        assert isinstance(decision, Retrain)
        diary.append(queued(decision, now, last, at))
        pasts.append(CompletedRetraining(last + 1, 200.0, last - 199, float(last), "first", True, decision.kind, 3.0))
        common = {"run_id": f"run-{last}", "trigger": "first", "reason": "because"}
        diary.append(made(Retraining, state="promoted", version=str(last), at=at + 5, **common))
        diary.append(made(Retraining, state="finished", at=at + 6, scores={"past": asdict(pasts[-1])}, **common))
    offsets, messages = zip(*outcomes, strict=True)
    return TopicHistory(outcomes=messages, outcome_offsets=offsets, alerts=alerts, retrainings=diary)


def test_decision_is_reproduced_from_recorded_inputs() -> None:
    told = story()
    for place, kind in ((0, "answer"), (3, "refresh")):
        step = repeat_decision(told, place, CHOSEN)
        assert step.same is True and step.detail == f"{kind}: {told.retrainings[place].reason}"


def test_later_alerts_and_outcomes_are_excluded() -> None:
    moment = inputs_of(story(), 0, 500)
    assert [one.alert_id for one in moment.alerts] == ["first"]
    assert len(moment.outcomes) == 271 and moment.now == PolicyContext(271)
    assert [past.labelled for past in inputs_of(story(), 3, 500).now.past] == [271]


def test_changed_decision_reports_the_difference() -> None:
    told = story()
    step = repeat_decision(told, 0, replace(CHOSEN, policy="never"))
    assert (step.same, step.detail) == (False, "the policy never waits now: the policy is never to retrain")
    step = repeat_decision(
        dataclasses.replace(told, retrainings=[replace(told.retrainings[0], reason="another")]), 0, CHOSEN
    )
    assert step.same is False and step.detail.startswith("reason ") and step.detail.endswith(", then another")
    step = repeat_decision(
        dataclasses.replace(told, outcomes=told.outcomes[:250], outcome_offsets=told.outcome_offsets[:250]), 0, CHOSEN
    )
    assert step.same is False and "50 labelled events since the onset are on the topic, 71 then" in step.detail
    step = repeat_decision(dataclasses.replace(told, alerts=[]), 0, CHOSEN)
    assert step.same is False and "no drift has been seen" in step.detail


def test_recorded_settings_win_over_current_ones() -> None:
    told = story()
    scores = {**told.retrainings[0].scores, "settings": msgspec.to_builtins(CHOSEN)}
    told = dataclasses.replace(told, retrainings=[replace(told.retrainings[0], scores=scores)])
    assert repeat_decision(told, 0, replace(CHOSEN, policy="never")).same is True


@pytest.mark.parametrize("recording", sorted(path.parent.name for path in RECORDED.glob("*/retraining.jsonl")))
def test_settings_recorded_by_earlier_versions_are_read(recording: str) -> None:
    lines = (RECORDED / recording / "retraining.jsonl").read_bytes().splitlines()
    queued = [line for line in (decode(Retraining, line) for line in lines) if "settings" in line.scores]
    assert queued
    for line in queued:
        assert recorded_settings(line, CHOSEN).window == line.scores["settings"]["window"]
    names = {"per_day": 3, "at_once": 2, "memory": 9}
    old = replace(queued[0], scores={"settings": names})
    assert recorded_settings(old, CHOSEN) == RetrainSettings(
        max_per_day=3, parallel_fits=2, concept_memory=9, mixture=False
    )


def test_recorded_decision_figures_are_compared() -> None:
    """Figures are in the details or, from earlier versions, in the reason."""
    told, chosen = story(), replace(CHOSEN, policy="cost-aware")
    line = told.retrainings[0]

    def step(**changed: Any) -> ReproductionStep:
        return repeat_decision(dataclasses.replace(told, retrainings=[replace(line, **changed)]), 0, chosen)

    figures = {
        "severity": 0.25, "horizon": 2000, "cost_of_error": 1.0, "saved": 500.0,
        "seconds": 120.0, "cost_of_second": 1.0, "price": 120.0,
    }  # fmt: skip
    assert step(scores={**line.scores, "details": figures}).same is True
    changed = step(scores={**line.scores, "details": {**figures, "price": 121.0}})
    assert changed.same is False and changed.detail.startswith("details ") and "121.0" in changed.detail
    earlier = f"{line.reason}; 0.25 x 2000 events x 1 = 500 would be saved, 120 s x 1 = 120 spent"
    assert step(reason=earlier).same is True, "earlier versions wrote the figures into the reason"
    assert step(reason=f"{line.reason}, or not").same is False


def test_a_message_without_the_inputs_cannot_be_compared() -> None:
    told = story()
    assert (
        repeat_decision(
            dataclasses.replace(told, retrainings=[replace(told.retrainings[0], scores={})]), 0, CHOSEN
        ).same
        is None
    )


def test_abandoned_retraining_is_excluded_from_past() -> None:
    """Promotion counts only from the moment of its message on."""
    told = story()
    given_up = [replace(line, run_id="gone") for line in told.retrainings[:2]]
    assert len(inputs_of(dataclasses.replace(told, retrainings=[*given_up, *told.retrainings]), 5, 500).now.past) == 1
    first, promoted, finished, second, *rest = told.retrainings
    late = dataclasses.replace(told, retrainings=[first, second, promoted, finished, *rest])
    (past,) = inputs_of(late, 1, 500).now.past
    assert past.promoted is False, "its search was still under way"


def test_first_of_repeated_events_counts_while_remembered() -> None:
    rows = [outcome(0), outcome(1), outcome(2, event=0), outcome(3), outcome(4, event=1)]
    assert [one.position for one in outcomes_between(rows, 0, 4, keep=10)] == [0, 1, 3]
    assert [one.position for one in outcomes_between(rows, 1, 3, keep=10)] == [1, 3]
    assert [one.position for one in outcomes_between(rows, 0, 4, keep=2)] == [1, 3]
    rows.append(outcome(5, event=0))
    assert [one.position for one in outcomes_between(rows, 0, 5, keep=2)] == [3, 5], "forgotten and seen again"


def sentences(onset: int = 0, seed: int = 0) -> TrainingWindow:
    """Return 240 synthetic sentences with random embeddings."""
    texts, labels = tiny.sentences(240, seed)
    embeddings = np.random.default_rng(seed).normal(size=(240, 8)).astype(np.float32)
    return TrainingWindow(tuple(map(str, range(240))), tuple(texts), tuple(labels), embeddings, Path(), onset)


@pytest.mark.parametrize("whole", [True, False])
def test_refitted_linear_head_has_same_weights(whole: bool) -> None:
    window = sentences(onset=120)
    train = window.hold_out(CHOSEN.holdout)[0]
    winner, old_weight = learn(train, CHOSEN.seed)
    there = fit_head(window, old_weight, CHOSEN.seed) if whole else winner
    again, chosen = refit_head(window, Lineage(candidate="linear", rows=len(window if whole else train)), CHOSEN)
    assert (weights_digest(again), chosen) == (weights_digest(there), old_weight)
    other = sentences(onset=120, seed=1)
    assert weights_digest(refit_head(other, Lineage(candidate="linear", rows=240), CHOSEN)[0]) != weights_digest(there)


def test_weights_digest_survives_saving_and_detects_changes(tmp_path: Path) -> None:
    """Change of the last bit of a weight changes the digest."""
    window = sentences()
    head = fit_head(window, 1.0)
    digest = weights_digest(head)
    head.predict_proba(window.texts, window.embeddings)
    assert weights_digest(head) == digest, "it has predicted in between"
    head.save(tmp_path / "a.skops")
    loaded = load_head(tmp_path / "a.skops")
    assert weights_digest(loaded) == digest
    loaded.estimator.coef_[0, 0] = np.nextafter(loaded.estimator.coef_[0, 0], 9)
    assert weights_digest(loaded) != digest
    assert weights_digest(Head(head.estimator)) != digest, "without its words"
    words = head.vectorizer.vocabulary_
    words["great"], words["awful"] = words["awful"], words["great"]
    assert weights_digest(head) != digest


@pytest.mark.parametrize("name", list(OPTIONS))
def test_weights_digest_is_stable_across_head_types(name: str, tmp_path: Path) -> None:
    """Heads are of kinds that a search may find; other rows give another digest."""
    from retrain.candidates import tpot_search_space

    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(60, 4)), np.array(["a", "b"])[rng.integers(0, 2, 60)]
    heads = [Head(getattr(tpot_search_space, name)(**OPTIONS[name]).fit(rows, labels)) for _ in range(2)]
    heads[0].save(tmp_path / "a.skops")
    digests = {weights_digest(head) for head in (*heads, load_head(tmp_path / "a.skops"))}
    assert len(digests) == 1
    assert (
        weights_digest(Head(getattr(tpot_search_space, name)(**OPTIONS[name]).fit(rows[1:], labels[1:]))) not in digests
    )
