"""Policy beside a mixture: when it is registered anew, and which settings allow one."""

from __future__ import annotations

from typing import Any

import pytest

from driftloop.core.messages import DriftAlert, Outcome
from driftloop.core.settings import RetrainSettings
from retrain.policies.base import ALWAYS, CompletedRetraining, PolicyContext, Retrain, Wait
from retrain.policies.catalogue import make_policy
from retrain.policies.mixture_rounds import MORE_LABELS, MixtureRounds
from retrain.stream_state import outcomes_kept
from tests.unit.serving.test_views import made

ONSET = 100.0


def outcomes(count: int) -> list[Outcome]:
    return [made(Outcome, event_id=str(at), position=at, occurred_at=float(at)) for at in range(count)]


def alert(onset: float = ONSET, name: str = "a") -> DriftAlert:
    return made(DriftAlert, alert_id=name, position=int(onset), onset=int(onset), onset_at=onset)


def rounds(labelled: int, *alerts: DriftAlert, searching: tuple[float, ...] = ()) -> list[tuple[int, str, str]]:
    """Labels, kind and trigger of each round of a stream, with the last alert from the start of its drift on."""
    policy, past, found = make_policy(RetrainSettings()), [], []
    everything = outcomes(labelled)
    for at in range(500, labelled + 1, 100):
        known = [one for one in alerts if one.onset_at < at]
        decision = policy.decide(PolicyContext(at, tuple(past), searching), known, everything[:at])
        if isinstance(decision, Retrain):
            rows = sum(one.occurred_at >= decision.onset_at for one in everything[:at])
            past.append(
                CompletedRetraining(at, decision.onset_at, rows, at - 1.0, decision.trigger, True, decision.kind)
            )
            found.append((at, decision.kind, decision.trigger))
    return found


def test_rounds_come_as_labels_of_a_concept_grow() -> None:
    """The first champion counts as a round. A drift begins anew."""
    assert rounds(14_000) == [(at, "search", MORE_LABELS) for at in (1500, 4500, 13_500)]
    found = rounds(14_000, alert(2000.0))
    assert [at for at, *_ in found] == [1500, 2300, 2900, 4700, 10_100]
    assert [trigger for *_, trigger in found] == [MORE_LABELS, "a", "a", "a", "a"]


def test_interval_between_rounds_has_a_limit() -> None:
    policy = MixtureRounds(cooldown=0, bootstrap=500, longest=2000)
    past = CompletedRetraining(4500, ALWAYS, 4500, 4499.0, MORE_LABELS, promoted=True, kind="search")
    assert isinstance(policy.decide(PolicyContext(6499, (past,)), [], outcomes(6499)), Wait)
    assert isinstance(policy.decide(PolicyContext(6500, (past,)), [], outcomes(6500)), Retrain)


@pytest.mark.parametrize(("promoted", "due"), [(True, 4500), (False, 1600)])
def test_failed_round_is_soon_repeated(promoted: bool, due: int) -> None:
    policy = MixtureRounds(cooldown=0)
    past = CompletedRetraining(1500, ALWAYS, 1500, 1499.0, MORE_LABELS, promoted, kind="search")
    assert isinstance(policy.decide(PolicyContext(due - 1, (past,)), [], outcomes(due - 1)), Wait)
    assert isinstance(policy.decide(PolicyContext(due, (past,)), [], outcomes(due)), Retrain)


def test_one_search_of_a_concept_at_a_time() -> None:
    """While a search is open, the next round of its concept registers only. The search of another concept ends."""
    assert [kind for _, kind, _ in rounds(3000, searching=(ALWAYS,))] == ["refresh"]
    assert [kind for _, kind, _ in rounds(3000, alert(2000.0), searching=(ALWAYS,))] == ["refresh", "search", "search"]


def test_new_drift_waits_for_the_cooldown() -> None:
    policy, past = MixtureRounds(cooldown=800), CompletedRetraining(1500, ALWAYS, 1500, 1499.0, MORE_LABELS, True)
    told = [alert(1600.0)]
    assert isinstance(policy.decide(PolicyContext(2299, (past,)), told, outcomes(2299)), Wait)
    assert isinstance(policy.decide(PolicyContext(2300, (past,)), told, outcomes(2300)), Retrain)


@pytest.mark.parametrize(
    ("fields", "learns"),
    [
        ({}, True),
        ({"policy": "periodic"}, True),
        ({"mixture": False}, False),
        ({"policy": "never"}, False),
        ({"approval": "manual"}, False),
    ],
)
def test_some_settings_keep_a_single_champion(fields: dict[str, Any], learns: bool) -> None:
    chosen = RetrainSettings(**fields)
    assert chosen.learns_from_every_label is learns
    assert outcomes_kept(chosen) == (19_200 if learns else chosen.window)
