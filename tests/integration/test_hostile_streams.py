"""Thousands of hostile messages among good ones, on the real Kafka, with all that reads the topics running.

What the processes answer is looked at with `driftloop audit`: each event is one prediction or one dead letter.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
from kafka import TopicPartition

from driftloop.core import messages, topics
from driftloop.core.kafka import clients
from driftloop.core.messages import DeadLetter, DriftAlert, Event, ModelUpdate, Outcome, Prediction
from driftloop.core.topics import (
    DEAD_LETTERS,
    DRIFT_ALERTS,
    EVENTS,
    LABELS,
    MODEL_UPDATES,
    OUTCOMES,
    PREDICTIONS,
    RETRAINING,
    Topic,
)
from serving.audit.audit import audit
from serving.live.loop_follower import LoopFollower
from stream_processors.scoring.scorer import MAX_CLOCK_LEAD
from tests.hostile import FULL, bodies, collected, count
from tests.integration.conftest import StreamHarness
from tests.unit.serving.test_views import made

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

GOOD = 300
HOSTILE: dict[Topic, int] = {
    EVENTS: 20_000, LABELS: 10_000, PREDICTIONS: 5_000, OUTCOMES: 2_000, DRIFT_ALERTS: 2_000, MODEL_UPDATES: 1_000,
    RETRAINING: 1_000, DEAD_LETTERS: 1_000,
}  # fmt: skip
if not FULL:
    HOSTILE = {topic: max(number // 20, 150) for topic, number in HOSTILE.items()}
BIG = 15_000_000 if FULL else 1_500_000
"""Bytes of the largest message: kafka-python takes seconds for the checksum of such a one."""
KEYS = (None, b"", b"\xff\xfe", b"k" * 1_200_000, b"e1")
HEADERS = (None, [("trace", b"\xff" * 100)], [("a", b"")] * 50)
"""Nobody reads them."""


def put(world: StreamHarness, topic: Topic, values: Sequence[bytes | None]) -> list[int]:
    """Send the values as no honest producer would, and return their offsets."""
    producer = world.outbox._producer
    full = topics.name(world.settings, topic)
    big = "max.message.bytes" in topic.config
    sent = []
    for number, value in enumerate(values):
        key = KEYS[number % len(KEYS)] if big and number < len(KEYS) else b"k%d" % number
        sent.append(producer.send(full, value=value, key=key, headers=HEADERS[number % len(HEADERS)] or []))
    producer.flush()
    return [future.get(timeout=60).offset for future in sent]


def readable(kind: type[messages.Message], body: bytes | None) -> Any:
    try:
        return messages.decode(kind, body or b"")
    except ValueError:
        return None


def hostile(topic: Topic) -> list[bytes]:
    """Each with an id of its own, where it keeps the one that whole messages have."""
    found = collected(bodies(topic.message), HOSTILE[topic])
    return [body.replace(b'"event_id": "e"', b'"event_id": "h%d"' % at) for at, body in enumerate(found)]


def by_hand() -> list[bytes | None]:
    """Events with what has broken such systems before."""
    good: dict[str, Any] = {"event_id": "x", "text": "great", "occurred_at": 1.0}
    changes: list[dict[str, Any]] = [
        {"event_id": "a\nb:c\x00d"}, {"event_id": "😀" * 1024}, {"event_id": "x" * 1_000_000}, {"event_id": "\ud800"},
        {"event_id": ""}, {"event_id": "(no event) 0:0"}, {"event_id": "0:0"}, {"event_id": "*"},
        {"event_id": "t1", "text": ""}, {"event_id": "t2", "text": " \t\n"}, {"event_id": "t3", "text": "a" * 65_000},
        {"event_id": "t4", "text": "😀" * 5_000}, {"event_id": "t5", "text": "\u202e\u2066" * 99},
        {"event_id": "t6", "text": "\x00" * 5000}, {"event_id": "t7", "text": "\u0301" * 9_000},
        {"event_id": "o1", "occurred_at": 1e308}, {"event_id": "o2", "occurred_at": -1e308},
        {"event_id": "o3", "occurred_at": time.time() + 2 * MAX_CLOCK_LEAD}, {"event_id": "o4", "occurred_at": -62e9},
        {"event_id": "p1", "position": 2**53 - 1}, {"event_id": "p2", "position": 2**53},
        {"event_id": "twice"}, {"event_id": "twice"}, {"event_id": "twice", "text": "awful"},
    ]  # fmt: skip
    whole = [json.dumps(good | change).encode() for change in changes]
    return [*whole, None, b'{"event_id": "big", "occurred_at": 1, "text": "' + b"a" * BIG + b'"}']


@pytest.fixture
def running(world: StreamHarness) -> Iterator[StreamHarness]:
    """A world with all that reads the topics."""
    world.promote()
    world.start("monitor", DRIFTLOOP_DEAD_LETTER_LIMIT="1")  # most of what comes is hostile: a flood, on purpose
    world.start("score", DRIFTLOOP_DEAD_LETTER_LIMIT="1")
    world.start("retrain", DRIFTLOOP_RETRAIN__CANDIDATES="linear")
    yield world


def test_hostile_messages_among_good_are_all_answered(running: StreamHarness) -> None:
    """Each event becomes one prediction or one dead letter."""
    world = running
    events: list[bytes | None] = [*by_hand(), *hostile(EVENTS)]
    with LoopFollower(world.settings) as live:
        world.send(events=range(GOOD // 2), labels=range(GOOD // 3))
        places = dict(zip(put(world, EVENTS, events), events, strict=True))
        labels = put(world, LABELS, [None, *hostile(LABELS)])
        broken = {
            topic: put(world, topic, [body for body in hostile(topic) if readable(topic.message, body) is None])
            for topic in HOSTILE
            if topic not in (EVENTS, LABELS)
        }
        world.send(events=range(GOOD // 2, GOOD), labels=range(GOOD // 3, GOOD))
        world.until(lambda: caught_up(world, live), 400)
        world.until(lambda: live.loop.complete and live.loop.status.events == world.count(EVENTS), 60)
        world.until(lambda: dead(world, MODEL_UPDATES) == set(broken[MODEL_UPDATES]), 60)  # by a thread of its own
    said = audit(world.settings)
    assert said.clean and said.counts["waiting"] == 0, said
    assert {f"e{i}" for i in range(GOOD)} <= {one.event_id for one in world.read(OUTCOMES) if isinstance(one, Outcome)}
    assert [child.restarts for child in world.children] == [0, 0, 0]
    refused = {offset for offset, body in places.items() if not scored(world, body)}
    assert dead(world, EVENTS) == refused
    predicted = {one.event_id for one in world.read(PREDICTIONS) if isinstance(one, Prediction)}
    assert predicted == {f"e{i}" for i in range(GOOD)} | {
        readable(Event, places[at]).event_id for at in places.keys() - refused
    }
    for topic in (PREDICTIONS, OUTCOMES, DRIFT_ALERTS):
        assert dead(world, topic) == set(broken[topic]), topic.name
    count("live: events", "dead letter", len(refused))
    count("live: events", "prediction", len(places) - len(refused))
    count("live: labels", "answered", len(labels))
    for topic, offsets in broken.items():
        count(
            f"live: {topic.name}",
            "dead letter" if topic not in (RETRAINING, DEAD_LETTERS) else "passed over",
            len(offsets),
        )


def dead(world: StreamHarness, topic: Topic) -> set[int]:
    """The offsets of the topic that dead letters stand for."""
    full = topics.name(world.settings, topic)
    return {one.offset for one in world.read(DEAD_LETTERS) if isinstance(one, DeadLetter) and one.topic == full}


def caught_up(world: StreamHarness, live: LoopFollower) -> bool:
    """Whether the processors have acknowledged all there is, and the page has heard of it."""
    with closing(clients.consumer(world.settings, group_id=clients.group_id("monitor", world.settings))) as monitor:
        read = [TopicPartition(topics.name(world.settings, topic), 0) for topic in (PREDICTIONS, LABELS)]
        behind = clients.lag(monitor, read)
    return not behind and live.loop.complete and not live.loop.status.lag and world.count(OUTCOMES) >= GOOD


def scored(world: StreamHarness, body: bytes | None) -> bool:
    event = readable(Event, body)
    return (
        event is not None
        and len(body or b"") <= world.settings.scorer.max_bytes
        and event.occurred_at < time.time() + MAX_CLOCK_LEAD
    )


def test_forged_messages_are_named_by_the_audit(running: StreamHarness) -> None:
    """Whoever may write to a topic can put lies on it; they are found, and good events are scored and joined on."""
    world = running
    world.send(events=range(100), labels=range(100))
    world.until(lambda: world.count(OUTCOMES) >= 100)
    assert audit(world.settings).clean
    lies = {topic: [body for body in hostile(topic) if readable(topic.message, body)] for topic in HOSTILE}
    stream = world.settings.stream
    lies[MODEL_UPDATES] += [
        messages.encode(made(ModelUpdate, stream=stream, version=version, action=action, reason="r", fence=fence))
        for version in ("99", "²", "../../etc", "1") for action in ("promote", "rollback") for fence in (0, 1)
    ]  # fmt: skip
    lies[DRIFT_ALERTS] += [
        messages.encode(made(DriftAlert, alert_id=f"forged-{at}", stream=stream, position=0, onset=0, onset_at=at))
        for at in (-62e9, 0.0, 1000.0, 253e9)
    ]
    lies[PREDICTIONS] += [
        messages.encode(made(Prediction, event_id=f"f{n}", probabilities={}, model_version="²", encoder="4500:x"))
        for n in range(50)
    ]
    lies[OUTCOMES] += [messages.encode(made(Outcome, event_id=f"f{n}", probabilities={}, label="")) for n in range(50)]
    for topic in (PREDICTIONS, OUTCOMES, DRIFT_ALERTS, MODEL_UPDATES, RETRAINING):
        if topic is not MODEL_UPDATES:
            lies[topic] = [body.replace(b'"stream": "s"', b'"stream": "%s"' % stream.encode()) for body in lies[topic]]
        put(world, topic, lies[topic])
        count(f"live, forged: {topic.name}", "named or passed over", len(lies[topic]))
    with LoopFollower(world.settings) as live:
        world.send(events=range(100, 200), labels=range(100, 200))
        wanted = {f"e{i}" for i in range(200)}
        world.until(lambda: wanted <= {o.event_id for o in world.read(OUTCOMES)}, 120)  # type: ignore[attr-defined]
        world.until(lambda: live.loop.complete, 60)
    assert [child.restarts for child in world.children] == [0, 0, 0]
    found = {finding.what: finding for finding in audit(world.settings).findings}
    invented = {one.event_id for one in (readable(Prediction, body) for body in lies[PREDICTIONS])}
    assert found["predictions are of no event"].count == len(invented)
    assert "model versions answered or were promoted and are not registered" in found
    assert not [
        finding for finding in found.values() if finding.kind == "less" and "events" in finding.what.split()[:1]
    ]
