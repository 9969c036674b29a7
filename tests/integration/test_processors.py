"""The scorer and the monitor as real processes on the real Kafka, Valkey and MLflow."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from pathlib import Path

import pytest
from msgspec.structs import replace

from driftloop.core import topics
from driftloop.core.messages import Command
from driftloop.core.online_store import MONITOR_STATE, OnlineStore
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import LogSettings
from driftloop.core.topics import DEAD_LETTERS, DRIFT_ALERTS, EVENTS, LABELS, OUTCOMES, PREDICTIONS, RETRAINING
from tests.integration.conftest import StreamHarness, text_and_label


def test_events_are_predicted_and_labels_joined_once(world: StreamHarness) -> None:
    world.promote()
    world.send(events=range(300), labels=range(100))  # labels that come before their predictions
    world.start("monitor")
    world.start("score")
    world.until(lambda: world.count(PREDICTIONS) >= 300)
    world.send(labels=range(100, 300))  # and labels that come after
    world.until(lambda: world.count(OUTCOMES) >= 300)
    predictions = world.read(PREDICTIONS)
    assert Counter(p.event_id for p in predictions) == Counter(f"e{i}" for i in range(300))
    assert [p.position for p in predictions] == list(range(300))
    assert all(abs(sum(p.probabilities.values()) - 1) < 1e-3 and p.latency_ms > 0 for p in predictions)
    outcomes = world.read(OUTCOMES)
    assert Counter(o.event_id for o in outcomes) == Counter(f"e{i}" for i in range(300))
    assert sum(o.correct for o in outcomes) / 300 > 0.9
    assert all(o.label == text_and_label(o.position)[1] and o.correct == (o.predicted == o.label) for o in outcomes)
    stored = OnlineStore(world.settings).predictions(["e0", "e299", "nobody"])
    assert [body is not None for body in stored] == [True, True, False]


def test_broker_collects_single_events_into_batches(world: StreamHarness) -> None:
    """With Faust's own way to ask, each of them is a batch."""
    world.promote()
    batches = {}
    for within in ("0.5", "0.001"):
        env = {"DRIFTLOOP_SCORER__MAX_WAIT": within, "DRIFTLOOP_LOGS__LEVEL": "info"}
        scorer = world.start("score", log=within, changes=("stub",), **env)
        begin = world.count(PREDICTIONS)
        for event in range(begin, begin + 120):
            world.send(events=[event])
            if event == begin:
                world.until(lambda so_far=begin: world.count(PREDICTIONS) > so_far)
            time.sleep(0.01)
        world.until(lambda wanted=begin + 120: world.count(PREDICTIONS) >= wanted)
        assert scorer.stop() == 0
        batches[within] = scorer.log.read_text().count("messages handled")
    assert 0 < 3 * batches["0.5"] < batches["0.001"], batches


def test_hostile_messages_become_dead_letters(world: StreamHarness) -> None:
    """Valid events before and after them are predicted."""
    world.promote()
    hostile = {
        b"undecodable": b"\xff\xfe not json",
        b"no-text": b'{"event_id": "x", "occurred_at": 1}',
        b"wrong-type": b'{"event_id": "x", "text": 5, "occurred_at": 1}',
        b"huge": b'{"event_id": "x", "occurred_at": 1, "text": "' + b"a" * 10_000_000 + b'"}',
        b"empty": b"",
    }
    world.send(events=range(5))
    for key, value in hostile.items():
        world.outbox.put("events", key, value)
    world.outbox.put(
        "events", b"odd", b'{"event_id": "odd", "occurred_at": 1, "text": "\\u0000\\u202e \xf0\x9f\x98\x80"}'
    )
    world.send(events=range(5, 10))
    world.start("score")
    world.until(lambda: world.count(PREDICTIONS) >= 11 and world.count(DEAD_LETTERS) >= 5)
    assert {p.event_id for p in world.read(PREDICTIONS)} == {f"e{i}" for i in range(10)} | {"odd"}
    letters = {letter.key: letter for letter in world.read(DEAD_LETTERS)}
    assert letters.keys() == {key.decode() for key in hostile}
    assert base64.b64decode(letters["undecodable"].value_base64) == hostile[b"undecodable"]
    assert letters["huge"].size == len(hostile[b"huge"]) and "more than" in letters["huge"].error
    assert "text" in letters["no-text"].error
    assert all(letter.topic.endswith("events") and letter.offset >= 5 for letter in letters.values())


@pytest.mark.parametrize("comes_back", [True, False])
def test_killed_scorer_loses_nothing_and_leaves_no_files(
    world: StreamHarness, comes_back: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a scorer that does not come back leaves events without a prediction."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    world.promote()
    world.send(events=range(1500))
    scorer = world.start("score", restart=comes_back, DRIFTLOOP_SCORER__BATCH="32", TMPDIR=str(empty))
    world.until(lambda: world.count(PREDICTIONS) >= 100)
    scorer.kill()
    killed_at = world.count(PREDICTIONS)
    assert list(empty.iterdir()) == []
    assert killed_at < 1500, "it was killed too late for this test to show anything"
    if not comes_back:
        world.until(lambda: scorer.poll() is not None)
        assert len({p.event_id for p in world.read(PREDICTIONS)}) < 1500
        return
    world.until(lambda: len({p.event_id for p in world.read(PREDICTIONS)}) == 1500)
    assert scorer.restarts == 1
    said: dict[str, set[str]] = {}
    for prediction in world.read(PREDICTIONS):
        said.setdefault(prediction.event_id, set()).add(prediction.label)
    assert all(len(labels) == 1 for labels in said.values()), "a redelivered event was answered differently"


def test_killed_monitor_counts_no_outcome_twice(world: StreamHarness) -> None:
    world.promote()
    world.start("score")
    world.send(events=range(1200))
    world.until(lambda: world.count(PREDICTIONS) >= 1200)
    world.send(labels=range(600))
    monitor = world.start("monitor")
    world.until(lambda: world.count(OUTCOMES) >= 50)
    monitor.kill()
    world.send(labels=range(600, 1200))
    world.until(lambda: len({o.event_id for o in world.read(OUTCOMES)}) == 1200)
    assert monitor.restarts == 1
    from stream_processors.drift.drift_monitor import DriftMonitor
    from stream_processors.monitoring.monitor import _unsigned

    def kept() -> list[int]:
        body, rows = OnlineStore(world.settings).state(MONITOR_STATE)
        if body is None:
            return []
        watch = DriftMonitor(world.settings.monitor.detectors, world.settings.stream)
        watch.restore(_unsigned(body, world.settings.signing_key).watch, rows)
        return [seen.position for seen in watch._labelled]

    world.until(lambda: len(kept()) >= 1200)
    assert sorted(kept()) == list(range(1200))


def test_promotion_takes_effect_between_batches(world: StreamHarness) -> None:
    """The promoted model is worse on purpose: drift is declared, with its onset near the switch."""
    first = world.promote()
    world.start("score")
    world.start("monitor")
    world.send(events=range(400), labels=range(400))
    world.until(lambda: world.count(OUTCOMES) >= 400)
    second = world.promote(flipped=True)  # a model that is wrong on purpose: accuracy must fall
    sent = 400
    while sent < 1400 and world.count(DRIFT_ALERTS) == 0:
        world.send(events=range(sent, sent + 50), labels=range(sent, sent + 50))
        sent += 50
        world.until(lambda wanted=sent: world.count(OUTCOMES) >= wanted)  # type: ignore[misc]
    predictions = world.read(PREDICTIONS)
    assert [p.position for p in predictions] == list(range(sent))
    versions = [p.model_version for p in predictions]
    assert versions == [first] * versions.count(first) + [second] * versions.count(second)
    assert versions.count(second) > 0
    alert = world.read(DRIFT_ALERTS)[0]
    assert abs(alert.onset - versions.index(second)) <= 20
    assert alert.model_version == second and alert.evidence["predicted_mix"][1].keys() == {"negative", "positive"}


def test_tampered_bundle_is_refused_and_champion_stays(world: StreamHarness) -> None:
    good = world.promote()
    world.start("score")
    world.send(events=range(10))
    world.until(lambda: world.count(PREDICTIONS) >= 10)
    world.promote(tampered=True)
    world.until(lambda: world.count(DEAD_LETTERS) >= 1)
    world.send(events=range(10, 20))
    world.until(lambda: world.count(PREDICTIONS) >= 20)
    assert {p.model_version for p in world.read(PREDICTIONS)} == {good}
    letter = world.read(DEAD_LETTERS)[0]
    assert letter.topic == topics.name(world.settings, topics.MODEL_UPDATES) and "not signed" in letter.error


def test_scorer_with_only_tampered_model_exits(world: StreamHarness) -> None:
    world.promote(tampered=True)
    scorer = world.start("score", restart=False)
    world.send(events=range(3))
    world.until(lambda: scorer.poll() is not None)
    assert scorer.exit_code == 2 and "not signed with this key" in scorer.log_tail()
    assert world.count(PREDICTIONS) == 0 and world.count(EVENTS) == 3


def test_unreadable_label_becomes_dead_letter(world: StreamHarness) -> None:
    world.promote()
    world.start("monitor")
    world.outbox.put("labels", b"bad", b"{")
    world.outbox.flush()
    world.until(lambda: world.count(DEAD_LETTERS) == 1)
    letter = world.read(DEAD_LETTERS)[0]
    assert letter.where == "monitor" and letter.topic == topics.name(world.settings, LABELS)


def test_log_names_batch_event_and_retraining(world: StreamHarness) -> None:
    world.settings = replace(
        world.settings,
        logs=LogSettings(format="json", level="info"),
        retrain=replace(world.settings.retrain, candidates=("linear",)),
    )
    world.promote()
    world.send(events=range(5))
    world.outbox.put("events", b"broken", b"{")
    wish = Command(command_id="c1", stream=world.settings.stream, action="retrain", by="Ann", at=time.time())
    world.outbox.put("commands", world.settings.stream, wish)
    scorer, retrainer = world.start("score"), world.start("retrain")
    world.until(lambda: world.count(PREDICTIONS) >= 5 and world.count(DEAD_LETTERS) >= 1)
    world.until(lambda: world.count(RETRAINING) >= 1)

    def said(child: ManagedProcess) -> list[dict[str, str]]:
        return [json.loads(line) for line in child.log.read_text().splitlines()]

    world.until(lambda: any("handled" in line["message"] for line in said(scorer)))
    (dead,) = [line for line in said(scorer) if "dead letter of" in line["message"]]
    full = topics.name(world.settings, EVENTS)
    assert (dead["event"], dead["role"], dead["level"]) == ("broken", "score", "INFO")
    assert dead["batch"].startswith(f"{full}-0@") and dead["batch"].endswith("-5")
    runs = {message.run_id for message in world.read(RETRAINING)}
    assert {line["run"] for line in said(retrainer) if "run" in line} <= runs != set()
