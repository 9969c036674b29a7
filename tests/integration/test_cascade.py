"""A cascade in a real scorer: its first stage answers, a drift alert silences it, the next model brings it back."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from driftloop.core.messages import DriftAlert
from driftloop.core.models.first_stage import FIRST_ROUTE
from driftloop.core.online_store import OnlineStore
from driftloop.core.topics import DRIFT_ALERTS, PREDICTIONS
from tests.integration.conftest import StreamHarness

pytestmark = pytest.mark.timeout(180)


def alert(world: StreamHarness) -> DriftAlert:
    return DriftAlert(
        alert_id="a1", stream=world.settings.stream, detector="fused", signal="error", severity=0.3, position=1,
        onset=0, outcome_offset=-1, onset_at=0.0, window=1, model_version="1", detected_at=time.time(),
    )  # fmt: skip


def test_alert_disables_first_stage_until_next_model(world: StreamHarness) -> None:
    sent = 0

    def routes() -> Counter[str]:
        """Of the predictions of a hundred more events."""
        nonlocal sent
        world.send(events=range(sent, sent + 100))
        sent += 100
        world.until(lambda: world.count(PREDICTIONS) >= sent)
        return Counter(p.route for p in world.read(PREDICTIONS)[sent - 100 :])

    world.promote(cascade=True)
    world.start("score", DRIFTLOOP_SCORER__CASCADE="always")
    before = routes()
    assert before[FIRST_ROUTE] > 50 and before["encoder+head"] > 0, before
    said = {p.event_id: p.route == FIRST_ROUTE for p in world.read(PREDICTIONS)}
    store = OnlineStore(world.settings)
    assert all(store.predictions(list(said)))
    encoder = next(p.encoder for p in world.read(PREDICTIONS) if p.encoder)
    kept = store.embeddings(list(said), encoder)
    assert [row is None for row in kept] == list(said.values()), "an embedding is kept where there is one"

    world.outbox.put(DRIFT_ALERTS.name, world.settings.stream, alert(world))
    world.outbox.flush()
    world.until(lambda: routes().keys() == {"encoder+head"})
    version = world.promote(cascade=True)
    world.until(lambda: routes()[FIRST_ROUTE] > 50)
    assert {p.model_version for p in world.read(PREDICTIONS)[-100:]} == {version}


def test_encoder_scores_every_event_without_load(world: StreamHarness) -> None:
    """The setting's default, beside the test above."""
    world.promote(cascade=True)
    world.send(events=range(20))
    world.start("score")
    world.until(lambda: world.count(PREDICTIONS) >= 20)
    assert {p.route for p in world.read(PREDICTIONS)} == {"encoder+head"}
