"""Which events people are asked about, on the real Kafka and Valkey."""

from __future__ import annotations

import pytest

from driftloop.topics import OUTCOMES
from retrain.asking import questions
from tests.integration.conftest import World

pytestmark = pytest.mark.stack


def test_people_are_asked_about_what_has_no_label_yet_within_the_budget(world: World) -> None:
    assert questions(world.settings, 5) == [], "nothing is predicted yet"
    world.promote()
    world.start("score")
    world.start("monitor")
    world.send(events=range(60), labels=range(40))
    world.until(lambda: world.count(OUTCOMES) == 40, 90)
    asked = questions(world.settings, 5)
    ids = [question.event_id for question in asked]
    labelled = {outcome.event_id for outcome in world.read(OUTCOMES)}  # type: ignore[attr-defined]
    assert len(set(ids)) == 5 and not set(ids) & labelled
    assert all(question.text and question.why and 0 < question.probability <= 1 for question in asked)
    assert len(questions(world.settings, 100)) <= 20, "no more than there are without a label"
