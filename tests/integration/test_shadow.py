"""What the worker keeps in shadow, in memory and on hold: real processes, on streams made by hand."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from driftloop.core.messages import Outcome
from driftloop.core.models.registry import Registry
from driftloop.core.topics import MODEL_UPDATES
from tests.integration.conftest import StreamHarness, event, text_and_label
from tests.integration.test_worker import QUICK, alert, diary, states

pytestmark = pytest.mark.slow

OTHER = {"negative": "positive", "positive": "negative"}
SLOW = QUICK | {"DRIFTLOOP_RETRAIN__CANDIDATES": "tests.misbehaving:Slow"}


def outcome(i: int, version: str, right: bool, lied: bool = False) -> Outcome:
    """What a model said that is sure of itself; the label may be a lie."""
    text, true = text_and_label(i)
    said, label = (true if right else OTHER[true]), (OTHER[true] if lied else true)
    return Outcome(
        event_id=f"e{i}",
        text=text,
        occurred_at=event(i).occurred_at,
        position=i,
        predicted=said,
        confidence=0.9,
        probabilities={said: 0.9, OTHER[said]: 0.1},
        label=label,
        correct=said == label,
        model_version=version,
        latency_ms=1.0,
        labelled_at=2000.0 + i,
    )


def put(world: StreamHarness, outcomes: list[Outcome], onset: int | None = None) -> None:
    for one in outcomes:
        world.outbox.put("outcomes", one.event_id, one)
    if onset is not None:
        raised = msgspec.structs.replace(alert(onset), stream=world.settings.stream)
        world.outbox.put("drift-alerts", world.settings.stream, raised)
    world.outbox.flush()


def last(world: StreamHarness, state: str) -> Any:
    return [message for message in diary(world) if message.state == state][-1]


@pytest.mark.parametrize("champion_is_right", [False, True])
def test_slow_candidate_is_decided_by_shadow_events(world: StreamHarness, champion_is_right: bool) -> None:
    """The second case is the control: beside a champion that is right the same candidate is not promoted."""
    world.promote(flipped=not champion_is_right)
    put(world, [outcome(i, "1", champion_is_right) for i in range(200)], onset=20)
    world.start("retrain", **SLOW)
    world.until(lambda: any(state == "shadow" for state, _ in states(world)), 90)
    assert world.count(MODEL_UPDATES) == 1, "it was promoted before it had answered a live event"
    put(world, [outcome(i, "1", champion_is_right) for i in range(200, 320)])
    end = "rejected" if champion_is_right else "promoted"
    world.until(lambda: (end, "tests.misbehaving:Slow") in states(world), 90)
    registry = Registry(world.settings)
    if champion_is_right:
        assert registry.champion() == "1" and registry.tags("2")["verdict"] == "rejected"
        return
    promoted = last(world, "promoted")
    assert promoted.scores["shadow"]["verdict"] == "challenger" and promoted.scores["shadow"]["events"] > 0
    metrics = registry.client.get_run(registry.versions()[-1].run_id).data.metrics
    assert metrics["shadow_accuracy_gain"] == promoted.scores["shadow"]["accuracy_gain"] > 0
    assert registry.champion() == promoted.version == "2" == world.read(MODEL_UPDATES)[-1].version
    assert registry.tags("2")["last_offset"] == "199", "the events in shadow are no part of what it learnt"


def test_drift_ends_a_shadow_with_a_verdict(world: StreamHarness) -> None:
    """Events after the drift do not count, and the model is not promoted into another concept."""
    world.promote()
    put(world, [outcome(i, "1", right=True) for i in range(200)], onset=20)
    world.start("retrain", **SLOW)
    world.until(lambda: any(state == "shadow" for state, _ in states(world)), 90)
    raised = msgspec.structs.replace(alert(240, "newer"), stream=world.settings.stream)
    world.outbox.put("drift-alerts", world.settings.stream, raised)
    put(world, [outcome(i, "1", right=i < 240) for i in range(200, 280)])
    world.until(lambda: ("rejected", "tests.misbehaving:Slow") in states(world), 90)
    rejected = last(world, "rejected")
    assert "alert newer has ended its concept" in rejected.reason
    assert rejected.scores["held_out"] == rejected.scores["shadow"]["events"] == 40
    assert rejected.scores["champion_accuracy"] == 1.0


@pytest.mark.parametrize("labels_are_lies", [True, False])
def test_worse_promotion_is_rolled_back(world: StreamHarness, labels_are_lies: bool) -> None:
    """Lies make a bad model win; the truth that comes afterwards brings the predecessor back. Control: no lies."""
    world.promote()
    put(world, [outcome(i, "1", right=labels_are_lies, lied=labels_are_lies) for i in range(200)], onset=20)
    world.start("retrain", **QUICK)
    world.until(lambda: ("finished", "") in states(world), 90)
    assert last(world, "promoted").version == "2"
    put(world, [outcome(i, "2", right=not labels_are_lies) for i in range(200, 240)])
    registry = Registry(world.settings)
    if not labels_are_lies:
        put(world, [outcome(i, "2", right=True) for i in range(240, 280)])
        world.until(lambda: any(message.kind == "refresh" for message in diary(world)), 90)
        assert not any(message.state == "rolled-back" for message in diary(world))
        return
    world.until(lambda: any(message.state == "rolled-back" for message in diary(world)), 90)
    told = last(world, "rolled-back")
    assert "its predecessor 1 is better after" in told.reason and told.scores["shadow"]["verdict"] == "challenger"
    update = world.read(MODEL_UPDATES)[-1]
    assert (update.action, update.version) == ("rollback", told.version) and registry.champion() == told.version
    assert registry.tags(told.version)["restores"] == "1" and registry.tags("2")["verdict"] == "rolled-back"


def test_recurring_concept_is_answered_without_training(world: StreamHarness) -> None:
    """The archived model of the concept is promoted again."""
    world.promote(trigger="an-old-alert")
    world.promote(flipped=True, trigger="a-later-alert")
    put(world, [outcome(i, "2", right=False) for i in range(200)], onset=120)
    world.start("retrain", **SLOW | {"DRIFTLOOP_RETRAIN__SEARCH_ROWS": "5000"})
    world.until(lambda: ("finished", "") in states(world), 90)
    assert states(world) == [("queued", ""), ("gated", "archive"), ("promoted", "archive"), ("finished", "")]
    registry = Registry(world.settings)
    tags = registry.tags("3")
    assert registry.champion() == "3" and (tags["restores"], tags["trigger"]) == ("1", "an-alert")
    assert world.read(MODEL_UPDATES)[-1].action == "promote"


def test_winner_waits_for_manual_approval(world: StreamHarness) -> None:
    world.promote(flipped=True)
    put(world, [outcome(i, "1", right=False) for i in range(200)], onset=20)
    world.start("retrain", **QUICK | {"DRIFTLOOP_RETRAIN__APPROVAL": "manual"})
    world.until(lambda: ("finished", "") in states(world), 90)
    waiting = last(world, "waiting")
    assert "driftloop approve 2" in waiting.reason
    registry = Registry(world.settings)
    assert registry.champion() == "1" and registry.tags("2")["verdict"] == "waiting" and world.count(MODEL_UPDATES) == 1
