"""`driftloop backfill`: history scored with another version, and nothing changed by it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from kafka import TopicPartition
from msgspec.structs import replace

from driftloop.core import messages, topics
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.messages import Label, Prediction
from driftloop.core.models.registry import Registry
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings_source import environment
from driftloop.core.topics import EVENTS, PREDICTIONS
from serving.backfill.backfill import OffsetSelection, backfill
from serving.backfill.comparison import Span
from tests.integration.conftest import StreamHarness, event, text_and_label

ALL = OffsetSelection(0)


def run(world: StreamHarness, *argv: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "driftloop", "backfill", *argv],
        env=environment(world.settings),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def everything(world: StreamHarness) -> tuple[Any, ...]:
    """What may not change: end offsets, the store, the registry."""
    names = [topics.name(world.settings, topic) for topic in topics.ALL]
    client = OnlineStore(world.settings).client
    keys = sorted(client.keys(f"driftloop:{world.settings.stream}:*"))
    kept = [(key, client.dump(key)) for key in keys]
    registry = Registry(world.settings)
    return clients.message_counts(world.settings, names), kept, [vars(one) for one in registry.versions()]


def scored(world: StreamHarness, n: int) -> None:
    """``n`` events scored by a scorer with the champion, and their labels."""
    world.send(events=range(n), labels=range(n))
    scorer = world.start("score")
    world.until(lambda: world.count(PREDICTIONS) == n)
    scorer.stop()


def test_backfill_counts_changes_without_side_effects(world: StreamHarness) -> None:
    """Topics, store and registry stay as they were."""
    bad = world.promote(flipped=True)
    scored(world, 60)
    good = world.promote(until=1009.0)
    world.outbox.put("events", "broken", b"no event")
    world.outbox.put("events", "long", event(500).__class__(event_id="long", text="x" * 70_000, occurred_at=1.0))
    world.send(events=range(60, 70))
    world.outbox.flush()
    before = everything(world)
    out = world.folder / "new.jsonl"
    found = backfill(world.settings, good, ALL, out)
    assert everything(world) == before
    assert before[0][topics.name(world.settings, EVENTS)] == 72 and before[1], "there was something that could change"

    assert (found.version, found.spans) == (good, [Span(partition=0, start=0, end=72)])
    assert (found.events, found.unscored, found.compared) == (70, 2, 60)
    assert (found.changed, found.answered_by) == (60, {bad: 60})
    assert {(move.was, move.becomes) for move in found.moves} == {("negative", "positive"), ("positive", "negative")}
    assert sum(move.events for move in found.moves) == 60
    assert (found.labelled, found.trained_on, found.accuracy_was, found.accuracy) == (50, 10, 0.0, 1.0)
    (part,) = found.segments
    assert (part.name, part.compared, part.changed, part.labelled) == ("made-up", 60, 60, 50)
    assert len(found.examples) == 10 and all(one.label == one.becomes != one.was for one in found.examples)

    lines = [messages.decode(Prediction, line) for line in out.read_bytes().splitlines()]
    assert [one.event_id for one in lines] == [f"e{i}" for i in range(70)]
    assert all(one.label == text_and_label(one.position)[1] and one.model_version == good for one in lines)
    assert [one.in_sample for one in lines] == [i < 10 for i in range(70)]


def test_first_label_counts_unless_feedback_corrects_it(world: StreamHarness) -> None:
    world.promote()
    scored(world, 20)
    same = world.promote()
    wrong = {"negative": "positive", "positive": "negative"}
    for i in (3, 4):
        said = Label(event_id=f"e{i}", label=wrong[text_and_label(i)[1]], labelled_at=3000.0)
        world.outbox.put("labels", f"e{i}", replace(said, feedback=i == 4))
    world.outbox.flush()
    found = backfill(world.settings, same, ALL)
    assert (found.changed, found.moves, found.examples) == (0, [], [])
    assert (found.labelled, found.accuracy_was, found.accuracy) == (20, 0.95, 0.95), "only the person's word counts"


def test_backfill_respects_offsets_of_the_partition(world: StreamHarness) -> None:
    version = world.promote()
    world.send(events=range(30))
    part = backfill(world.settings, version, OffsetSelection(10, 25, 0))
    assert (part.events, part.compared, part.spans) == (15, 0, [Span(partition=0, start=10, end=25)])
    assert backfill(world.settings, version, OffsetSelection(29, 10_000)).events == 1
    for wanted, says in (
        (OffsetSelection(0, None, 7), "There is no partition 7 of "),
        (
            OffsetSelection(30),
            r"There is no event between these offsets of \S+events, whose next one is 30 \(partition 0\)",
        ),
        (OffsetSelection(20, 10), "There is no event between these offsets"),
    ):
        with pytest.raises(DriftloopError, match=says):
            backfill(world.settings, version, wanted)
    topic = topics.name(world.settings, EVENTS)
    client = clients.admin(world.settings)
    client.delete_records({TopicPartition(topic, 0): 12})  # as retention does
    client.close()
    status, said, words = run(world, "--version", version, "--from", "5")
    assert (status, said) == (2, "") and words.count("\n") == 1
    assert (
        f"Offset 5 of {topic}, partition 0, was deleted. The oldest that is kept is 12: give --from 12 or later"
        in words
    )
    status, said, _ = run(world, "--version", version, "--from", "earliest", "--json")
    assert status == 0 and json.loads(said)["spans"] == [{"partition": 0, "start": 12, "end": 30}]


@pytest.mark.slow
def test_backfill_command_reports_changes(world: StreamHarness) -> None:
    world.promote(flipped=True)
    scored(world, 20)
    good = world.promote()
    out = world.folder / "new.jsonl"
    status, said, words = run(world, "--version", good, "--from", "0", "--out", str(out))
    assert status == 0, words
    assert f"20 events at the offsets 0 to 20 (partition 0) scored with version {good}." in said
    assert "20 predictions would have changed, 100.0%." in said and "negative → positive" in said
    assert "the accuracy was 0.000 and would have been 1.000 (+1.000)." in said
    assert "Nothing was written to a topic or to the store." in said
    assert len(out.read_text().splitlines()) == 20
    kept = out.read_bytes()
    status, said, words = run(world, "--version", good, "--from", "0", "--out", str(out))
    assert status == 2 and "already exists. Choose another file" in words and out.read_bytes() == kept
    status, said, words = run(world, "--version", "999", "--from", "0")
    assert status == 2 and "There is no version '999' in the registry." in words
    strange = world.promote(tampered=True, announce=False)
    status, said, words = run(world, "--version", strange, "--from", "0", "--out", str(world.folder / "none"))
    assert status == 2 and "is not signed with this key" in words and not (world.folder / "none").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_backfill_exits_130_without_file(world: StreamHarness, number: signal.Signals) -> None:
    version = world.promote()
    world.send(events=range(4000))
    out = world.folder / "new.jsonl"
    argv = [sys.executable, "-m", "driftloop", "backfill", "--version", version, "--from", "0", "--out", str(out)]
    with subprocess.Popen(argv, env={**os.environ, **environment(world.settings)}, stderr=subprocess.PIPE) as process:
        draft = Path(f"{out}.partial")
        deadline = time.monotonic() + 60
        while not (draft.exists() and draft.stat().st_size):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(timeout=30) == 130
    assert [path for path in world.folder.iterdir() if path.name.startswith("new.jsonl")] == []
