"""Which events people are asked about, on the real Kafka and Valkey."""

from __future__ import annotations

from driftloop.core.topics import OUTCOMES
from retrain.labels.active_learning import select_for_labelling
from tests.integration.conftest import StreamHarness


def test_questions_skip_labelled_events_and_respect_budget(world: StreamHarness) -> None:
    assert select_for_labelling(world.settings, 5) == [], "nothing is predicted yet"
    world.promote()
    world.start("score")
    world.start("monitor")
    world.send(events=range(60), labels=range(40))
    world.until(lambda: world.count(OUTCOMES) == 40, 90)
    asked = select_for_labelling(world.settings, 5)
    ids = [question.event_id for question in asked]
    labelled = {outcome.event_id for outcome in world.read(OUTCOMES)}  # type: ignore[attr-defined]
    assert len(set(ids)) == 5 and not set(ids) & labelled
    assert all(question.text and question.why and 0 < question.probability <= 1 for question in asked)
    assert len(select_for_labelling(world.settings, 100)) <= 20, "no more than there are without a label"
