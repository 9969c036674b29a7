"""Traces through the real processes: one for each event, from the replay to its outcome, and none by default."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from driftloop.core.kafka import clients
from driftloop.core.online_store import OnlineStore
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import LogSettings, TraceSettings
from driftloop.core.settings_source import environment
from driftloop.core.topics import ALL, DEAD_LETTERS, EVENTS, LABELS, OUTCOMES, PREDICTIONS, Topic, name
from tests.integration.conftest import StreamHarness, text_and_label

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

TOTAL, AT_ONCE = 120, 40
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = [("traceparent", f"00-{TRACE}-{SPAN}-01".encode())]
FLAGS = len(f"00-{TRACE}-{SPAN}")
AT_THE_END = {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}
"""Spans are handed over when the process ends, and not before."""


def replay(world: StreamHarness, *options: str) -> None:
    """Events, whose labels come first at once and then 30 events later."""
    rows = "".join(f"{text},{label}\n" for text, label in map(text_and_label, range(TOTAL)))
    (world.folder / "data.csv").write_text("text,label\n" + rows)
    (world.folder / "mine.toml").write_text(
        f'rate = 20\nbootstrap = {AT_ONCE}\nlabel_delay = 30\n[dataset]\npath = "data.csv"\n'
    )
    command = [sys.executable, "-m", "driftloop", "replay", str(world.folder / "mine.toml"), *options]
    environ = os.environ | environment(world.settings) | AT_THE_END
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def run_the_loop(world: StreamHarness) -> list[ManagedProcess]:
    """The whole way of all events: the first labels are parked before there is a scorer, the others come after it."""
    world.promote()
    monitor = world.start("monitor", restart=False, **AT_THE_END)
    replay(world, "--limit", str(AT_ONCE))
    keys = [outcome.event_id for outcome in world.read(LABELS)]
    world.until(lambda: len(keys) == AT_ONCE and None not in OnlineStore(world.settings).parked_labels(keys))
    scorer = world.start("score", restart=False, **AT_THE_END)
    world.until(lambda: world.count(OUTCOMES) >= AT_ONCE)
    replay(world)
    world.until(lambda: world.count(OUTCOMES) >= TOTAL)
    return [scorer, monitor]


def headers(world: StreamHarness, topic: Topic) -> dict[str, list[tuple[str, bytes]]]:
    """What came with each message, by its key; of a trace's flags nothing."""
    records = (one for part in clients.records(world.settings, name(world.settings, topic)) for one in part)
    return {(one.key or b"").decode(): [(key, value[:FLAGS]) for key, value in one.headers] for one in records}


def parent_of(span: dict[str, Any]) -> str:
    return str(span["parent_id"])


def carried(span: dict[str, Any]) -> list[tuple[str, bytes]]:
    """The headers of what was sent in a span."""
    ids = (span["context"][part].removeprefix("0x") for part in ("trace_id", "span_id"))
    return [("traceparent", f"00-{'-'.join(ids)}".encode())]


def test_one_trace_links_replay_prediction_and_outcome(world: StreamHarness) -> None:
    file = world.folder / "spans"
    world.settings = replace(world.settings, trace=TraceSettings(exporter="file", file=str(file)))
    for child in run_the_loop(world):
        child.stop()
        assert child.exit_code == 0, child.log_tail()
    spans: dict[str, dict[str, Any]] = defaultdict(dict)
    for span in map(json.loads, file.read_text().splitlines()):
        event_id = span["attributes"]["messaging.kafka.message.key"]
        assert span["name"] not in spans[event_id], "a span twice, though nothing was read twice"
        spans[event_id][span["name"]] = span
    assert spans.keys() == {outcome.event_id for outcome in world.read(OUTCOMES)} and len(spans) == TOTAL
    there = {topic.name: headers(world, topic) for topic in (EVENTS, LABELS, PREDICTIONS, OUTCOMES)}
    late = 0
    for event_id, made in spans.items():
        sent, told, scored, joined = (made.pop(key) for key in ("send events", "send labels", "score", "join"))
        assert made == {}
        late += told["start_time"] > scored["end_time"]
        assert len({span["context"]["trace_id"] for span in (sent, told, scored, joined)}) == 1
        assert sent["parent_id"] is None
        assert parent_of(told) == parent_of(scored) == sent["context"]["span_id"]
        assert parent_of(joined) == scored["context"]["span_id"]
        assert [link["context"]["span_id"] for link in joined["links"]] == [told["context"]["span_id"]]
        assert {topic: found[event_id] for topic, found in there.items()} == {
            "events": carried(sent),
            "labels": carried(told),
            "predictions": carried(scored),
            "outcomes": carried(joined),
        }
    assert len({span["context"]["trace_id"] for span in map(json.loads, file.read_text().splitlines())}) == TOTAL
    assert late, "no label came after its prediction: nothing was read from the store"


def test_control_tracing_is_off_by_default(world: StreamHarness, tmp_path: Path) -> None:
    """The control; what somebody else's producer sent along changes nothing either."""
    file = tmp_path / "spans"
    world.settings = replace(world.settings, trace=TraceSettings(file=str(file)))
    run_the_loop(world)
    world.outbox.put("events", "own", b'{"event_id": "own", "text": "great", "occurred_at": 1}', HEADERS)
    world.outbox.put("events", "broken", b"{", HEADERS)
    world.outbox.flush()
    world.until(lambda: world.count(PREDICTIONS) > TOTAL and world.count(DEAD_LETTERS) == 1)
    for topic in ALL:
        found = headers(world, topic)
        ours = {key: value for key, value in found.items() if topic is not EVENTS or key not in ("own", "broken")}
        assert not any(ours.values()), f"{topic.name}: {ours}"
    assert len(headers(world, PREDICTIONS)) == TOTAL + 1 and not file.exists()


def test_dead_letter_keeps_its_trace(world: StreamHarness) -> None:
    """An event with a missing or malformed trace header starts a new trace."""
    file = world.folder / "spans"
    world.settings = replace(
        world.settings,
        trace=TraceSettings(exporter="file", file=str(file)),
        logs=LogSettings(format="json", level="info"),
    )
    world.promote()
    strange = {"none": [], "null": [("traceparent", b"")], "long": [("traceparent", b"0" * 100_000), ("\x00", b"\xff")]}
    world.outbox.put("events", "broken", b"{", HEADERS)
    for key, value in strange.items():
        body = f'{{"event_id": "{key}", "text": "great", "occurred_at": 1}}'.encode()
        world.outbox.put("events", key, body, value)
    world.outbox.flush()
    scorer = world.start("score", restart=False)
    world.until(lambda: world.count(PREDICTIONS) == 3 and world.count(DEAD_LETTERS) == 1)
    scorer.stop()
    made = map(json.loads, file.read_text().splitlines())
    spans = {span["attributes"]["messaging.kafka.message.key"]: span for span in made}
    bury = spans["broken"]
    assert (bury["name"], bury["context"]["trace_id"], parent_of(bury)) == ("bury", f"0x{TRACE}", f"0x{SPAN}")
    assert headers(world, DEAD_LETTERS)["broken"] == carried(bury)
    lines = [json.loads(line) for line in scorer.log.read_text().splitlines()]
    (said,) = [line for line in lines if "dead letter of" in line["message"]]
    assert (said["trace"], said["event"]) == (TRACE, "broken")
    found = headers(world, PREDICTIONS)
    for key in strange:
        assert spans[key]["name"] == "score" and spans[key]["parent_id"] is None
        assert found[key] == carried(spans[key])
    assert len({spans[key]["context"]["trace_id"] for key in strange}) == 3


def test_redelivered_event_gets_new_span_same_prediction(world: StreamHarness) -> None:
    file = world.folder / "spans"
    world.settings = replace(world.settings, trace=TraceSettings(exporter="file", file=str(file)))
    world.promote()
    body = b'{"event_id": "twice", "text": "great", "occurred_at": 1}'
    scorer = world.start("score", restart=False)
    for number in (1, 2):
        world.outbox.put("events", "twice", body, HEADERS)
        world.outbox.flush()
        world.until(lambda number=number: world.count(PREDICTIONS) == number)  # type: ignore[misc]
    scorer.stop()
    first, second = map(json.loads, file.read_text().splitlines())
    assert first["context"]["trace_id"] == second["context"]["trace_id"] == f"0x{TRACE}"
    assert first["context"]["span_id"] != second["context"]["span_id"]
    records = [r for part in clients.records(world.settings, name(world.settings, PREDICTIONS)) for r in part]
    assert records[0].value == records[1].value
    found = [[(key, value[:FLAGS]) for key, value in record.headers] for record in records]
    assert found == [carried(first), carried(second)]
