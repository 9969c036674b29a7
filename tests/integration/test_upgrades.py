"""An upgrade while the stream runs: what older and newer versions wrote lies on the topics and in the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from driftloop.core import topics
from driftloop.core.messages import SCHEMA, DeadLetter, Label, Outcome, Prediction, decode, encode
from driftloop.core.online_store import MONITOR_STATE, OnlineStore
from driftloop.core.settings import Settings
from driftloop.core.topics import DEAD_LETTERS, EVENTS, LABELS, OUTCOMES, PREDICTIONS
from serving.audit.audit import audit
from tests.integration.conftest import StreamHarness, event, label
from tests.recorded import FOLDERS, lines


def newer(message: Any, **fields: Any) -> bytes:
    """A message as a newer version would write it."""
    return json.dumps({**json.loads(encode(message)), "added": [1], **fields}).encode()


def store_state(world: StreamHarness, folder: Path) -> None:
    store = OnlineStore(world.settings)
    store.client.set(store.key("state", MONITOR_STATE), (folder / "monitor.state").read_bytes())
    if (folder / "monitor.rows").is_file():
        store.client.rpush(store.key("rows", MONITOR_STATE), (folder / "monitor.rows").read_bytes())
    store.client.set(store.key("counted", MONITOR_STATE), 0)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_stream_of_older_version_continues(world: StreamHarness, folder: Path) -> None:
    """Its events are answered as they were, its predictions meet its labels, and what is new goes on behind them."""
    assert world.settings.signing_key == Settings().signing_key
    world.promote()
    store_state(world, folder)
    answers = {decode(Prediction, line).event_id: line for line in lines(folder, PREDICTIONS)}
    OnlineStore(world.settings).put_predictions(answers)
    for topic in (EVENTS, PREDICTIONS, LABELS):
        for line in lines(folder, topic):
            world.outbox.put(topic.name, decode(topic.message, line).event_id, line)  # type: ignore[attr-defined]
    for i in range(30):
        world.outbox.put(EVENTS.name, f"e{i}", newer(event(i)))
        world.outbox.put(LABELS.name, f"e{i}", newer(label(i)))
    world.outbox.put(EVENTS.name, "next", newer(event(99), schema=SCHEMA + 1, text=["no text of ours"]))
    world.outbox.put(LABELS.name, "next", newer(label(99), schema=SCHEMA + 1))
    world.outbox.flush()
    world.start("monitor")
    world.start("score")
    recorded = {found.event_id for found in (decode(Label, line) for line in lines(folder, LABELS))}
    joined = (recorded & answers.keys()) | {f"e{i}" for i in range(30)}
    world.until(lambda: joined <= {one.event_id for one in world.read(OUTCOMES)})  # type: ignore[attr-defined]
    world.until(lambda: world.count(DEAD_LETTERS) == 2 and audit(world.settings).counts["waiting"] == 0)
    for child in world.children:
        child.stop()
        assert child.restarts == 0, child.log_tail()
    # The recorded versions are not registered here, and of the outcomes that the state has counted most are not there.
    found = [one for one in audit(world.settings).findings if one.kind != "lineage" and "detectors" not in one.what]
    assert not found
    said = [one for one in world.read(PREDICTIONS) if isinstance(one, Prediction) and one.event_id in answers]
    assert {encode(one) for one in said} == {encode(decode(Prediction, line)) for line in answers.values()}
    then = {one["event_id"]: one for one in map(json.loads, lines(folder, OUTCOMES))}
    now = {one.event_id: json.loads(encode(one)) for one in world.read(OUTCOMES) if isinstance(one, Outcome)}
    assert then.keys() & now.keys() and all(then[key].items() <= now[key].items() for key in then.keys() & now.keys())
    letters = [letter for letter in world.read(DEAD_LETTERS) if isinstance(letter, DeadLetter)]
    assert {letter.key for letter in letters} == {"next"} and all("upgrade driftloop" in one.error for one in letters)


@pytest.mark.parametrize("stored", [b"", b"x" * 100, b"a state of a newer version"], ids=["empty", "foreign", "newer"])
def test_unreadable_state_is_discarded_with_log_message(world: StreamHarness, stored: bytes) -> None:
    """So is what the store holds of single events: a newer version's prediction is as if it were not there."""
    import hashlib
    import hmac

    world.promote()
    store = OnlineStore(world.settings)
    if stored.startswith(b"a state"):
        stored = hmac.digest(world.settings.signing_key.encode(), stored, hashlib.sha256) + stored
    store.client.set(store.key("state", MONITOR_STATE), stored)
    store.put_predictions({"e7": newer(made_prediction(7), schema=SCHEMA + 1)})
    world.send(labels=range(8))
    monitor = world.start("monitor")
    world.start("score")
    world.send(events=range(7))
    world.until(lambda: world.count(OUTCOMES) >= 7)
    assert monitor.restarts == 0
    monitor.stop()
    assert "The stored state of the detectors cannot be read" in (world.folder / "monitor.log").read_text()
    assert store.outcome_count(MONITOR_STATE) == 7 and store.parked_labels(["e7"])[0] is not None


def made_prediction(i: int) -> Prediction:
    from tests.unit.serving.test_views import made

    found: Prediction = made(Prediction, event_id=f"e{i}", position=i)
    return replace(found, text=event(i).text)


def test_topics_match_the_recordings() -> None:
    names = {topic.name for topic in topics.ALL}
    recorded = [{path.stem for path in folder.glob("*.jsonl")} for folder in FOLDERS]
    assert recorded[-1] == names and all(found <= names for found in recorded)
