"""`driftloop audit` on the real stack: what is whole is called whole, and whatever is broken is found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import msgspec
import pytest
from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata

from driftloop.core import topics
from driftloop.core.kafka import clients
from driftloop.core.messages import Outcome, Prediction
from driftloop.core.online_store import MONITOR_STATE, OnlineStore
from driftloop.core.settings_source import environment
from driftloop.core.topics import EVENTS, OUTCOMES, PREDICTIONS
from serving.audit.audit import Audit, Finding, audit
from tests.integration.conftest import StreamHarness, event, label

EVENTS_SENT = 300


def look(world: StreamHarness) -> Audit:
    return audit(world.settings)


def found(world: StreamHarness, kind: str, words: str) -> Finding:
    """The one finding of that kind with these words."""
    said = look(world).findings
    (one,) = [finding for finding in said if finding.kind == kind and words in finding.what]
    return one


def play(world: StreamHarness) -> None:
    """A stream with an undecodable event, a repeated one and labels, from its beginning to its end."""
    world.promote()
    world.send(events=range(EVENTS_SENT), labels=range(EVENTS_SENT - 50))
    world.outbox.put(EVENTS.name, "broken", b"{")
    world.outbox.put(EVENTS.name, "e7", event(7))
    world.outbox.put("labels", "e7", label(7))
    world.outbox.put("labels", "unheard-of", msgspec.structs.replace(label(7), event_id="unheard-of"))
    world.outbox.put("labels", "broken", b"[]")
    world.outbox.flush()
    world.start("score")
    world.start("monitor")
    world.until(lambda: world.count(OUTCOMES) >= EVENTS_SENT - 50 and look(world).clean)
    world.until(lambda: look(world).counts["waiting"] == 0 and world.count(topics.DEAD_LETTERS) == 2)


def test_events_in_flight_are_not_losses(world: StreamHarness) -> None:
    world.promote()
    world.send(events=range(40), labels=range(10))
    said = look(world)
    assert said.verdict == "ALL-RECORDS-DELIVERED" and said.counts["waiting"] == 40 and not said.findings
    commit(world, 30)
    lost = found(world, "less", "neither a prediction nor a dead letter")
    assert lost.count == 30 and set(lost.first) <= {f"e{i}" for i in range(30)}
    assert look(world).verdict == "PROCESSED-LESS" and look(world).counts["waiting"] == 10


def test_audit_accepts_complete_stream_and_finds_tampering(world: StreamHarness) -> None:
    play(world)
    for child in world.children:
        child.stop()
    said = look(world)
    assert said.verdict == "ALL-RECORDS-DELIVERED" and said.clean, said
    assert said.counts | {"prediction_messages": 0} == {
        "events": EVENTS_SENT + 1,
        "predictions": EVENTS_SENT,
        "dead_letters": 1,
        "waiting": 0,
        "labels": EVENTS_SENT - 50 + 1,
        "labels_waiting": 0,
        "outcomes": EVENTS_SENT - 50,
        "event_messages": EVENTS_SENT + 2,
        "prediction_messages": 0,
        "outcome_messages": EVENTS_SENT - 50,
        "dead_letter_messages": 2,
    }
    store = OnlineStore(world.settings)
    first = next(m for m in world.read(PREDICTIONS) if isinstance(m, Prediction) and m.event_id == "e3")
    joined = next(m for m in world.read(OUTCOMES) if isinstance(m, Outcome) and m.event_id == "e3")
    counted = store.outcome_count(MONITOR_STATE) or 0
    more = counted + 3

    def put(topic: str, message: Prediction | Outcome, **changed: object) -> Callable[[], None]:
        fresh = msgspec.structs.replace(message, **changed)

        def send() -> None:
            world.outbox.put(topic, fresh.event_id, fresh)
            world.outbox.flush()

        return send

    tamperings: list[tuple[str, str, int, Callable[[], object]]] = [
        ("less", "not in the store", 1, lambda: store.client.delete(store.key("prediction", "e5"))),
        ("more", "between the topic and the store", 1, lambda: store.client.set(store.key("prediction", "e6"), b"{}")),
        ("less", "never counted", 2, lambda: store.client.set(store.key("counted", MONITOR_STATE), counted - 2)),
        ("more", "by the detectors beyond", 3, lambda: store.client.set(store.key("counted", MONITOR_STATE), more)),
        ("more", "predictions that differ", 1, put(PREDICTIONS.name, first, label="something else")),
        ("more", "predictions are of no event", 1, put(PREDICTIONS.name, first, event_id="invented")),
        ("lineage", "are not registered", 1, put(PREDICTIONS.name, first, model_version="99")),
        ("more", "outcomes that differ", 1, put(OUTCOMES.name, joined, confidence=0.001)),
        ("more", "lack their label or their prediction", 1, put(OUTCOMES.name, joined, event_id="e290")),
    ]  # fmt: skip
    for kind, words, count, tamper in tamperings:
        assert not [f for f in look(world).findings if words in f.what], f"{words}: there before it was done"
        tamper()
        one = found(world, kind, words)
        assert one.count == count, one
    assert look(world).verdict == "PROCESSED-LESS", "what is missing is the worse news"


@pytest.mark.slow
def test_audit_command_prints_verdict_and_exit_status(world: StreamHarness) -> None:
    world.promote()
    world.send(events=range(20))
    status, said, _ = run_audit(world)
    assert status == 0 and said.startswith("ALL-RECORDS-DELIVERED: 20 events, 0 predictions"), said
    assert "20 in flight" in said
    commit(world, 20)
    status, said, _ = run_audit(world)
    assert status == 1 and said.startswith("PROCESSED-LESS: 20 events"), said
    assert "less: 20 events have neither a prediction nor a dead letter (first: e0, e1, e10, e11, e12)" in said
    status, said, _ = run_audit(world, "--json")
    assert status == 1 and json.loads(said)["verdict"] == "PROCESSED-LESS"
    status, said, _ = run_audit(world, "--mlflow", "http://127.0.0.1:9")
    assert status == 1 and "not checked: the registry: No MLflow answers" in said
    status, said, words = run_audit(world, "--kafka", "127.0.0.1:9")
    assert status == 2 and not said and "No Kafka broker answers at 127.0.0.1:9" in words


def run_audit(world: StreamHarness, *more: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "driftloop", "audit", *more],
        env=environment(world.settings),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def commit(world: StreamHarness, offset: int) -> None:
    """Acknowledge events as a scorer does that loses what it has taken."""
    client = clients.consumer(world.settings, group_id=clients.group_id("scorer", world.settings))
    try:
        where = TopicPartition(topics.name(world.settings, EVENTS), 0)
        client.commit({where: OffsetAndMetadata(offset, "", -1)})
    finally:
        client.close()
