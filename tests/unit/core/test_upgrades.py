"""Old and new versions read each other: messages, the monitor's state, manifests; what they cannot read they refuse."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import msgspec
import pytest

from driftloop.core import messages
from driftloop.core.messages import SCHEMA, Event, Label, Message, decode, encode
from driftloop.core.models.bundle import BundleError, Manifest, read_manifest
from driftloop.core.settings import Settings
from driftloop.core.topics import ALL, LABELS
from stream_processors.drift.drift_monitor import DriftMonitor
from stream_processors.drift.stored_state import MADE_BY
from stream_processors.monitoring.monitor import _unsigned
from tests.hostile import whole
from tests.recorded import FOLDERS, everything, known, lines, older, reader

KEY = Settings().signing_key
each_version = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def test_recordings_exist_for_every_topic() -> None:
    assert {folder.name for folder in FOLDERS} >= {"before-schema", "schema-1"}
    assert all(lines(folder, topic) for folder in FOLDERS for topic in known(folder))
    assert known(FOLDERS[-1]) == list(ALL)


@each_version
def test_current_version_reads_older_messages_completely(folder: Path) -> None:
    for topic, line in everything(folder):
        found = json.loads(encode(decode(topic.message, line)))
        assert {name: found[name] for name in json.loads(line)} == json.loads(line)
        assert found["schema"] == 1


@each_version
def test_older_version_reads_current_messages(folder: Path) -> None:
    then = reader(folder)
    for topic, line in [*everything(folder), *((topic, encode(whole(topic.message))) for topic in known(folder))]:
        kind = older(then, topic.message)
        assert kind is not None
        now = encode(decode(topic.message, line))
        understood = msgspec.to_builtins(then.decode(kind, now))
        assert understood == {name: value for name, value in json.loads(now).items() if name in understood}


@each_version
def test_fields_have_only_been_added_with_a_default(folder: Path) -> None:
    """The rule in `driftloop.core.messages`; a change that breaks it raises `SCHEMA` and is recorded anew."""
    then = reader(folder)
    if getattr(then, "SCHEMA", 1) != SCHEMA:
        pytest.skip("its schema is another")
    for topic in known(folder):
        before = {field.name: field for field in msgspec.structs.fields(older(then, topic.message))}
        now = {field.name: field for field in msgspec.structs.fields(topic.message)}
        assert before.keys() <= now.keys(), topic.name
        assert not [name for name in now.keys() - before.keys() if now[name].required], topic.name
        assert not [name for name, field in before.items() if now[name].required and not field.required], topic.name


def test_the_newest_records_are_of_this_version() -> None:
    """Otherwise nobody would notice that this version's own messages have become unreadable."""
    then = reader(FOLDERS[-1])
    for topic in ALL:
        assert older(then, topic.message).__struct_fields__ == topic.message.__struct_fields__, topic.name  # type: ignore[union-attr]


def changed(kind: type[Message], **fields: Any) -> bytes:
    return json.dumps({**json.loads(encode(whole(kind))), **fields}).encode()


@pytest.mark.parametrize("kind", [topic.message for topic in ALL], ids=lambda kind: kind.__name__)
def test_newer_field_is_ignored_newer_schema_refused(kind: type[Message]) -> None:
    assert decode(kind, changed(kind, added={"by": ["a newer version"]})) == whole(kind)
    with pytest.raises(ValueError, match=rf"its schema {SCHEMA + 1} is newer .* upgrade driftloop"):
        decode(kind, changed(kind, schema=SCHEMA + 1))


def test_newer_schema_is_reported_before_other_errors() -> None:
    """Control: the same body of this schema is said to lack a field."""
    with pytest.raises(ValueError, match="upgrade driftloop"):
        decode(Event, b'{"schema": 2, "body": "text"}')
    with pytest.raises(ValueError, match="missing required field"):
        decode(Event, b'{"schema": 1, "body": "text"}')


def rows_of(folder: Path) -> list[bytes]:
    """The observations beside a recorded state; older states hold them themselves."""
    path = folder / "monitor.rows"
    return [path.read_bytes()] if path.is_file() else []


@each_version
def test_older_monitor_state_is_restored(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its observations; its detectors begin anew, since no pickle is trusted across versions."""
    state = _unsigned((folder / "monitor.state").read_bytes(), KEY)
    watch = DriftMonitor(("fused",), "default")
    with caplog.at_level(logging.WARNING):
        watch.restore(state.watch, rows_of(folder))
    assert state.applied and watch.outcomes > 1000 and len(watch._labelled) == 5
    assert "The detectors begin anew" in caplog.text
    again = DriftMonitor(("fused",), "default")
    caplog.clear()
    again.restore(watch.save(), [watch.rows()])
    assert not caplog.text and again.outcomes == watch.outcomes, "control: its own state is taken over without a word"


def test_detectors_of_another_version_are_not_unpickled() -> None:
    saved = msgspec.msgpack.decode(DriftMonitor(("fused",), "s").save())
    for made_by, fails in (("driftloop 9.9", False), (MADE_BY, True), (f"driftloop 0.1.0, {MADE_BY}", True)):
        body = msgspec.msgpack.encode(saved | {"made_by": made_by, "fused": {"fused": b"no pickle"}})
        watch = DriftMonitor(("fused",), "s")
        if fails:
            with pytest.raises(pickle.UnpicklingError):
                watch.restore(body, [watch.rows()])
        else:
            watch.restore(body, [watch.rows()])


@each_version
def test_older_manifest_is_read_newer_one_refused(folder: Path, tmp_path: Path) -> None:
    sent = {json.loads(line)["label"] for line in lines(folder, LABELS)}
    assert read_manifest(folder).labels == sorted(sent) and len(sent) > 1
    newer = json.loads((folder / "manifest.json").read_bytes()) | {"format": 2}
    (tmp_path / "manifest.json").write_text(json.dumps(newer))
    with pytest.raises(BundleError, match="does not fit this version of driftloop"):
        read_manifest(tmp_path)


def test_a_manifest_may_gain_fields() -> None:
    body = json.loads((FOLDERS[0] / "manifest.json").read_bytes()) | {"added": 1}
    assert msgspec.json.decode(json.dumps(body).encode(), type=Manifest)


def test_label_without_schema_number_is_schema_1() -> None:
    line = json.loads(lines(FOLDERS[0], next(t for t in ALL if t.message is Label))[0])
    assert "schema" not in line and messages.decode(Label, json.dumps(line).encode()).schema == 1
