"""A replay on a real Kafka: every event and label once, labels late, and whole again after it was cut off."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from driftloop.core import messages, topics
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.settings_source import environment
from producers import replay
from producers.scenarios.scenarios import load_scenario

HOSTILE = ["", "naïve 🚗 — 'quoted', \"twice\"", "a\x00b", "two\nlines\r\n", "<script>alert(1)</script>", "x" * 100_000]


@pytest.fixture
def scenario(tmp_path):
    return make(tmp_path, rows=600, delay=30, bootstrap=50)


def make(folder: Path, rows: int, delay: int, bootstrap: int, rate: str = '"max"'):
    lines = [f"text {n},{'good' if n % 3 else 'bad'},{'first' if 2 * n < rows else 'then'}" for n in range(rows)]
    (folder / "data.csv").write_text("\n".join(["text,label,part", *lines]) + "\n", encoding="utf-8")
    (folder / "own.toml").write_text(
        f"rate = {rate}\nlabel_delay = {delay}\nbootstrap = {bootstrap}\n"
        '[dataset]\npath = "data.csv"\nsegment = "part"\n',
        encoding="utf-8",
    )
    return load_scenario(str(folder / "own.toml"))


def events_of(settings) -> list[messages.Event]:
    return clients.read_all(settings, topics.name(settings, topics.EVENTS), messages.Event)


def labels_of(settings) -> list[messages.Label]:
    return clients.read_all(settings, topics.name(settings, topics.LABELS), messages.Label)


def assert_whole(settings, scenario, total: int | None = None) -> None:
    """Every position is there exactly once on both topics, with the right content."""
    rows = list(scenario.rows())[:total]
    events, labels = (sorted(found, key=lambda m: m.position) for found in (events_of(settings), labels_of(settings)))
    ids = list(scenario.event_ids[: len(rows)])
    assert [event.position for event in events] == list(range(len(rows)))
    assert [label.position for label in labels] == list(range(len(rows)))
    assert [event.event_id for event in events] == [label.event_id for label in labels] == ids
    assert [(event.text, event.segment) for event in events] == [(row.text, row.segment) for row in rows]
    assert [label.label for label in labels] == [row.label for row in rows]
    assert {label.annotator for label in labels} == {"dataset"}


def test_events_arrive_in_order_with_delayed_labels(settings, scenario):
    """Every event and every label is sent exactly once."""
    reported = []
    report = replay.run(settings, scenario, progress=lambda *line: reported.append(line))

    assert (report.events, report.labels, report.resumed_from, report.complete) == (600, 600, 0, True)
    assert reported[-1][:2] == (600, 600)
    assert_whole(settings, scenario)
    events, labels = events_of(settings), labels_of(settings)
    assert [event.position for event in events] == list(range(600))
    assert [label.position for label in labels] == list(range(600))
    # One thread sends both, so that the times tell the order: a label comes right after the event it waits for.
    for label in labels:
        due = label.position if label.position < 50 else label.position + 30
        if due < 600:
            assert events[due].occurred_at <= label.labelled_at
        if due + 1 < 600:
            assert label.labelled_at <= events[due + 1].occurred_at


def test_keys_are_the_event_ids(settings, scenario):
    replay.run(settings, scenario, limit=20)
    for topic in (topics.EVENTS, topics.LABELS):
        with clients.assigned_consumer(settings, topics.name(settings, topic), consumer_timeout_ms=5000) as client:
            keys = [next(client).key for _ in range(20)]
        assert keys == [event_id.encode() for event_id in scenario.event_ids[:20]]


def test_a_second_replay_adds_nothing(settings, scenario):
    replay.run(settings, scenario)
    report = replay.run(settings, scenario)
    assert (report.events, report.labels, report.resumed_from, report.complete) == (0, 0, 600, True)
    assert_whole(settings, scenario)


def test_limited_replay_is_continued_later(settings, scenario):
    assert replay.run(settings, scenario, limit=100).events == 100
    assert_whole(settings, scenario, 100)
    report = replay.run(settings, scenario)
    assert (report.events, report.labels, report.resumed_from) == (500, 500, 100)
    assert_whole(settings, scenario)
    assert replay.run(settings, scenario, limit=40).events == 0


def test_another_replay_id_is_another_stream(settings, scenario, tmp_path, monkeypatch):
    monkeypatch.setattr(replay, "IN_FLIGHT", 100)  # so that the first look back sees nothing but the other stream
    other = load_scenario(str(tmp_path / "own.toml"), replay_id="again")
    replay.run(settings, scenario, limit=300)
    replay.run(settings, other)  # its 600 events hide the end of the first stream
    report = replay.run(settings, scenario)
    assert (report.resumed_from, report.events) == (300, 300)
    keys = [event.event_id for event in events_of(settings)]
    assert len(keys) == len(set(keys)) == 1200


def test_gaps_of_interrupted_run_are_filled(settings, scenario):
    missing_events, missing_labels = {5, 77, 98}, {3, 68}
    producer = clients.producer(settings)
    for position, (event_id, row) in enumerate(zip(scenario.event_ids, scenario.sequence, strict=True)):
        key = event_id.encode()
        if position < 100 and position not in missing_events:
            event = messages.Event(
                event_id=event_id, text=row.text, segment=row.segment, occurred_at=0.0, position=position
            )
            producer.send(topics.name(settings, topics.EVENTS), messages.encode(event), key=key)
        if position < 70 and position not in missing_labels:
            label = messages.Label(
                event_id=event_id, label=row.label, annotator="dataset", labelled_at=0.0, position=position
            )
            producer.send(topics.name(settings, topics.LABELS), messages.encode(label), key=key)
    producer.close()

    report = replay.run(settings, scenario)

    assert (report.events, report.labels, report.resumed_from) == (503, 532, 100)
    assert_whole(settings, scenario)


def test_resume_sends_only_remaining_labels(settings, scenario):
    stop = threading.Event()
    # The last 30 events and then the labels are paced, so that the run is stopped while only labels are left.
    slow = replace(scenario, rate=20.0, bootstrap=570, label_delay=200)
    report = replay.run(
        settings, slow, progress=lambda sent, total, _: stop.set() if sent == total else None, stop=stop
    )
    assert (report.events, report.labels, report.complete) == (600, 570, False)
    report = replay.run(settings, slow, rate="max")
    assert (report.events, report.labels, report.complete) == (0, 30, True)
    assert_whole(settings, scenario)


def test_stopped_run_ends_cleanly_and_resumes(settings, scenario):
    stop = threading.Event()
    report = replay.run(
        settings, scenario, rate=100, stop=stop, progress=lambda sent, *_: stop.set() if sent > 80 else None
    )
    assert not report.complete
    assert 80 < report.events < 600
    assert len(events_of(settings)) == report.events, "what was reported as sent must be on the topic"
    assert replay.run(settings, scenario).resumed_from == report.events
    assert_whole(settings, scenario)


def test_the_rate_is_kept_on_an_absolute_schedule(settings, scenario):
    replay.run(settings, scenario, rate=500, limit=250)
    times = [event.occurred_at for event in events_of(settings)]
    began = times[50]  # the bootstrap slice is not paced
    assert all(at - began >= number / 500 - 0.005 for number, at in enumerate(times[50:]))
    assert all(before <= after for before, after in pairwise(times))


def test_hostile_text_arrives_unchanged(settings, tmp_path):
    records = [{"text": text, "label": str(n % 2)} for n, text in enumerate(HOSTILE)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "hostile.toml").write_text('rate = "max"\n[dataset]\npath = "data.jsonl"\n')
    scenario = load_scenario(str(tmp_path / "hostile.toml"))
    replay.run(settings, scenario)
    assert [event.text for event in events_of(settings)] == HOSTILE
    assert_whole(settings, scenario)


CHILD = """
import sys
from driftloop.core.settings_source import load
from producers import replay
from producers.scenarios.scenarios import load_scenario
report = replay.run(load(), load_scenario(sys.argv[1]), rate=sys.argv[2])
print(report.events, report.complete)
"""


def start_child(settings, path: Path, rate: str) -> subprocess.Popen[str]:
    env = {**os.environ, **environment(settings)}
    return subprocess.Popen([sys.executable, "-c", CHILD, str(path), rate], env=env, stdout=subprocess.PIPE, text=True)


def wait_for_events(settings, count: int, child: subprocess.Popen[str]) -> None:
    name = topics.name(settings, topics.EVENTS)
    deadline = time.monotonic() + 60
    while clients.message_counts(settings, [name])[name] < count:
        assert child.poll() is None, "the replay ended before it could be cut off"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("rate", ["400", "max"])
def test_killed_replay_loses_and_doubles_nothing(settings, tmp_path, partitions, rate):
    settings = msgspec.structs.replace(
        settings, partitions=partitions, topic_prefix=f"{settings.topic_prefix}p{partitions}."
    )
    topics.create(settings)
    scenario = make(tmp_path, rows=12_000 if rate == "max" else 3_000, delay=200, bootstrap=500)
    for cut in (600, 1_300):  # cut off twice: the second run resumes and is cut off itself
        child = start_child(settings, tmp_path / "own.toml", rate)
        try:
            wait_for_events(settings, cut, child)
        finally:
            child.kill()
            child.communicate()
        assert child.returncode == -signal.SIGKILL

    report = replay.run(settings, scenario)

    assert 1_200 < report.resumed_from < len(scenario)
    assert_whole(settings, scenario)
    assert replay.run(settings, scenario).events == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_run_cleanly(settings, tmp_path, number):
    scenario = make(tmp_path, rows=3_000, delay=200, bootstrap=100)
    child = start_child(settings, tmp_path / "own.toml", "200")
    try:
        wait_for_events(settings, 150, child)
        child.send_signal(number)
        output, _ = child.communicate(timeout=30)
    finally:
        child.kill()
    sent, complete = output.split()
    assert child.returncode == 0
    assert complete == "False"
    assert len(events_of(settings)) == int(sent)
    replay.run(settings, scenario)
    assert_whole(settings, scenario)


@pytest.mark.parametrize(
    ("options", "word"), [({"rate": 0}, "above 0"), ({"rate": -1}, "above 0"), ({"limit": 0}, "limit")]
)
def test_bad_options_send_nothing(settings, scenario, options, word):
    with pytest.raises(DriftloopError, match=word):
        replay.run(settings, scenario, **options)
    assert events_of(settings) == []
