"""`driftloop compare`: two versions on the events that neither was trained on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from msgspec.structs import replace

from driftloop.core.messages import Outcome
from driftloop.core.settings_source import environment
from retrain.evaluation.version_comparison import compare
from tests.integration.conftest import StreamHarness, text_and_label


def outcome(i: int, **changes: object) -> Outcome:
    """The i-th labelled event, one of two segments; what was predicted for it does not matter here."""
    text, label = text_and_label(i)
    made = Outcome(
        event_id=f"e{i}",
        text=text,
        segment="even" if i % 2 == 0 else "odd",
        occurred_at=1000.0 + i,
        position=i,
        predicted=label,
        confidence=0.5,
        label=label,
        correct=True,
        model_version="1",
        latency_ms=1.0,
        labelled_at=2000.0,
    )
    return replace(made, **changes)


def put(world: StreamHarness, *outcomes: Outcome) -> None:
    for one in outcomes:
        world.outbox.put("outcomes", one.event_id, one)
    world.outbox.flush()


def run(world: StreamHarness, *argv: str, **environ: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "driftloop", "compare", *argv],
        env=environment(world.settings) | environ,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def test_versions_are_compared_on_untrained_events(world: StreamHarness) -> None:
    good, bad = world.promote(until=1019.0), world.promote(flipped=True, until=1039.0, rows=90)
    put(world, *map(outcome, range(100)), *map(outcome, range(90, 100)))  # the last ten come twice
    found = compare(world.settings, good, bad, newest=2000)
    events = found.events
    assert events is not None and found.unknown == []
    assert (events.rows, events.first_position, events.last_position) == (60, 40, 99)
    assert events.accuracy == (1.0, 0.0) and events.agreement == 0.0
    assert (events.only_one_right, events.only_other_right) == (60, 0)
    assert events.gain == -1.0 and events.gain_interval == (-1.0, -1.0) and events.brier_gain_interval[1] < 0
    assert events.chance < 0.01
    assert [(group.name, group.rows, group.one, group.other) for group in events.segments] == [
        ("even", 30, 1.0, 0.0),
        ("odd", 30, 1.0, 0.0),
    ]
    assert {group.name for group in events.classes} == {"negative", "positive"}
    assert sum(group.rows for group in events.classes) == 60
    assert all(group.chance is not None and group.chance < 0.05 for group in (*events.segments, *events.classes))
    written = {field.name: (field.one, field.other) for field in found.written}
    assert written["candidate"] == ("linear", "linear") and written["digest"][0] != written["digest"][1]

    back = compare(world.settings, bad, good, newest=10).events
    assert back is not None and (back.rows, back.first_position, back.gain) == (10, 90, 1.0)
    assert [group.chance for group in back.segments] == [None, None], "five rows are too few to tell"
    same = compare(world.settings, good, good, newest=2000).events
    assert same is not None and (same.rows, same.agreement, same.gain, same.chance) == (80, 1.0, 0.0, 1.0)


@pytest.mark.slow
def test_compare_command_prints_text_and_json(world: StreamHarness) -> None:
    good, bad = world.promote(), world.promote(flipped=True, until=1029.0)
    status, said, _ = run(world, good, bad)
    assert status == 1 and "No labelled event is newer than the training events of both" in said
    put(world, *map(outcome, range(80)))
    status, said, words = run(world, good, bad)
    assert status == 0, words
    assert f"version {good}" in said and "≠ digest" in said and "\n  candidate " in said
    assert f"Version {good} has no record of its training events: every event counts as new to it." in said
    assert "On 50 labelled events that neither was trained on (positions 30 to 79):" in said
    assert "accuracy    1.000 against 0.000" in said and "agreement   0.000" in said
    assert f"only version {good} is right on 50, only version {bad} on 0: p = 0.00" in said
    status, said, _ = run(world, good, bad, "--newest", "20", "--json")
    found = json.loads(said)
    assert status == 0 and found["events"]["rows"] == 20 and found["unknown"] == [good]
    assert any(field["name"] == "digest" and len(field["one"]) == 64 for field in found["written"])


@pytest.mark.slow
def test_compare_refuses_untrusted_and_unknown_versions(world: StreamHarness) -> None:
    """The error is one sentence."""
    good, strange = world.promote(), world.promote(tampered=True)
    for argv, says in (
        ([good, strange], "is not signed with this key"),
        ([good, "999"], "There is no version '999' in the registry."),
        ([good, "x; rm"], "There is no version 'x; rm' in the registry."),
    ):
        status, said, words = run(world, *argv)
        assert (status, said) == (2, "") and says in words and words.count("\n") == 1
    status, said, words = run(world, good, good, DRIFTLOOP_STREAM="another")
    assert status == 2 and "has no model driftloop-another: correct --stream or --mlflow" in words
    assert run(world, good, good, DRIFTLOOP_STREAM="another")[2] == words, "it was not made by asking"
