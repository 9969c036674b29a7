"""Policy beside a mixture: when it is registered anew, and which settings allow one."""

from __future__ import annotations

from typing import Any

import pytest

from driftloop.core.messages import DriftAlert, Outcome
from driftloop.core.settings import RetrainSettings
from retrain.policies.base import CompletedRetraining, PolicyContext, Retrain, Wait
from retrain.policies.catalogue import make_policy
from retrain.stream_state import outcomes_kept
from tests.unit.serving.test_views import made


def decide(settings: RetrainSettings, labels: int, *past: CompletedRetraining) -> Retrain | Wait:
    alert = made(DriftAlert, alert_id="a", position=100, onset=100, onset_at=100.0)
    outcomes = [made(Outcome, event_id=str(at), position=at, occurred_at=float(at)) for at in range(100 + labels)]
    return make_policy(settings).decide(PolicyContext(100 + labels, past), [alert], outcomes)


def completed(rows: int) -> CompletedRetraining:
    return CompletedRetraining(100 + rows, 100.0, rows, 99.0 + rows, "a", promoted=True, kind="search")


def test_mixture_is_registered_at_growing_intervals() -> None:
    """The first round is a search; without a mixture it comes as soon as there are labels for an answer."""
    chosen = RetrainSettings(mixture=True)
    assert isinstance(decide(chosen, 299), Wait)
    first = decide(chosen, 300)
    assert isinstance(first, Retrain) and (first.kind, first.trigger) == ("search", "a")
    assert isinstance(decide(chosen, 1199, completed(300)), Wait)
    second = decide(chosen, 1200, completed(300))
    assert isinstance(second, Retrain) and second.kind == "refresh"
    single = decide(RetrainSettings(), 40)
    assert isinstance(single, Retrain) and single.kind == "answer"


@pytest.mark.parametrize(
    ("fields", "learns"),
    [
        ({}, False),
        ({"mixture": True}, True),
        ({"mixture": True, "policy": "never"}, False),
        ({"mixture": True, "approval": "manual"}, False),
    ],
)
def test_some_settings_keep_a_single_champion(fields: dict[str, Any], learns: bool) -> None:
    chosen = RetrainSettings(**fields)
    assert chosen.learns_from_every_label is learns
    assert outcomes_kept(chosen) == (19_200 if learns else chosen.window)
