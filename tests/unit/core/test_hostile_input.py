"""Whatever comes through a door is a message or one of two errors, and what it is taken for does not depend on luck."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import math
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from rich.console import Console

from driftloop.core import messages, topics
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka.clients import MAX_MESSAGE
from driftloop.core.kafka.topic_history import TopicHistory
from driftloop.core.messages import (
    DeadLetter,
    DriftAlert,
    Event,
    Label,
    Message,
    ModelUpdate,
    Outcome,
    Prediction,
    Retraining,
)
from driftloop.core.models.bundle import MANIFEST, Canary, Lineage, Manifest, read_manifest
from driftloop.core.settings import Settings
from driftloop.core.settings_source import environment, load
from producers.data import datasets
from producers.scenarios.scenario_schema import DatasetSpec
from producers.scenarios.scenarios import read_spec
from retrain.labels.active_learning import drifted_segments
from serving import topic_console
from serving.audit.audit_db import AuditDatabase
from serving.cases import html, terminal
from serving.cases.builder import cases
from serving.live.loop_progress import LoopProgress
from serving.live.loop_state import LoopState
from serving.simulation.sparkline import draw_sparklines
from stream_processors.drift.drift_monitor import DriftMonitor
from stream_processors.monitoring.label_join import outcome
from stream_processors.monitoring.monitor import State as MonitorState
from stream_processors.monitoring.monitor import _signed, _unsigned
from tests.hostile import LEAVES, RAW, TEXT, VALUES, bent, bodies, count, each, topic_door, whole
from tests.unit.serving.test_views import made

BROKER_TAKES = 1024 * 1024
"""What a topic without a limit of its own takes."""


def read(kind: type[Message], body: bytes, door: str) -> Message | None:
    """The message, None where it is refused; anything but these two is a failure."""
    try:
        found = messages.decode(kind, body)
    except ValueError as error:
        assert str(error)
        count(door, "refused")
        return None
    count(door, "read")
    return found


@pytest.mark.parametrize("topic", topics.ALL, ids=lambda topic: topic.name)
def test_arbitrary_message_round_trips_or_is_refused(topic: topics.Topic) -> None:
    @each(bodies(topic.message), 10_000)
    def check(batch: list[bytes]) -> None:
        for body in batch:
            found = read(topic.message, body, topic_door(topic))
            if found is not None:
                assert messages.decode(topic.message, messages.encode(found)) == found

    check()


def test_views_accept_every_valid_message() -> None:
    """The live page, the counts, `driftloop watch` and `driftloop ask`: a message that stops one stops it for good."""
    inputs = st.one_of(*[st.tuples(st.just(topic), bodies(topic.message)) for topic in topics.ALL])
    loop = LoopState("s")
    loop.progress = LoopProgress(loop.status, loop.history, "events")
    newest: dict[str, Any] = {}

    @each(inputs, 5_000)
    def check(batch: list[tuple[topics.Topic, bytes]]) -> None:
        for topic, body in batch:
            found = read(topic.message, body, "views")
            if found is None:
                continue
            loop.take(found)
            assert "\n" not in topic_console.describe(found)
            newest[topic.name] = found
            if isinstance(found, DriftAlert):
                drifted_segments(found)
                outcomes, steps = ([newest[name]] if name in newest else [] for name in ("outcomes", "retraining"))
                assert len(cases(TopicHistory(alerts=[found], outcomes=outcomes, retrainings=steps))) == 1
        draw_sparklines(loop.accuracy, loop.status.total, 80)

    check()


def test_detectors_accept_every_prediction_and_outcome() -> None:
    watching = DriftMonitor(("fused", "error:adwin", "confidence:adwin", "mix:adwin"), "s")

    @each(st.tuples(bodies(Prediction), bodies(Label)), 5_000)
    def check(batch: list[tuple[bytes, bytes]]) -> None:
        for said, given in batch:
            prediction, label = read(Prediction, said, "detectors"), read(Label, given, "detectors")
            prediction = prediction or made(Prediction)
            watching.predicted(prediction)
            joined = outcome(prediction, label or made(Label, label="b"))
            assert messages.decode(Outcome, messages.encode(joined)) == joined
            watching.labelled(joined, 0)
        DriftMonitor(("fused", "error:adwin"), "s").restore(watching.save(), [watching.rows()])

    check()


def test_audit_database_keeps_distinct_events_apart(tmp_path: Path) -> None:
    ledger, seen, undecodable = AuditDatabase(tmp_path), set(), 0
    start = 0

    @each(bodies(Event) | TEXT.filter(bool).map(lambda text: _event(text)), 5_000)
    def check(batch: list[bytes]) -> None:
        nonlocal undecodable, start
        found = [read(Event, body, "ledger") for body in batch]
        ledger.add_events(((0, start + at), one and one.event_id, False) for at, one in enumerate(found))
        seen.update(one.event_id for one in found if one)
        undecodable += found.count(None)
        start += len(batch)

    check()
    ledger.match_dead_letters("events")
    assert ledger.count("entries") == len(seen) + undecodable
    ledger.close()


def test_event_id_cannot_collide_with_undecodable_message(tmp_path: Path) -> None:
    """Such as the words in which the audit speaks of an undecodable message, or the place of one."""
    ledger = AuditDatabase(tmp_path)
    ids = [None, None, "0:0", "(no event) 0:0", "b'0:1'"]
    ledger.add_events(((0, at), event_id, False) for at, event_id in enumerate(ids))
    ledger.match_dead_letters("events")
    assert ledger.count("entries") == len(ids)
    assert set(ledger.first_values(9, "id", "entries")) >= {"(no event) 0:0", "(no event) 0:1", "0:0"}
    ledger.close()


def _event(event_id: str) -> bytes:
    return json.dumps({"event_id": event_id, "text": "t", "occurred_at": 1}).encode()


def test_dead_letter_always_fits_topic_size_limit() -> None:
    sizes = st.sampled_from([0, 1, 1023, 1025, 300_000, MAX_MESSAGE])

    @each(st.tuples(sizes, st.binary(max_size=9), sizes, st.binary(max_size=9), TEXT), 1_000, 50)
    def check(batch: list[Any]) -> None:
        for much, key, more, value, error in batch:
            key, value = (key * much)[:much], (value * more)[:more]
            letter = messages.dead_letter(key, value, error.encode("utf-8", "replace").decode(), "w", ("t", 0, 0), 1.0)
            body = messages.encode(letter)
            assert len(body) + len((letter.key or "").encode()) < BROKER_TAKES
            assert messages.decode(DeadLetter, body) == letter
            assert value.startswith(base64.b64decode(letter.value_base64)) and letter.size == len(value)
            count("dead letters", "kept")

    check()


NAMES = sorted(environment(Settings()))


@each(
    st.dictionaries(st.sampled_from(NAMES) | TEXT.map("DRIFTLOOP_".__add__), TEXT | LEAVES.map(str), max_size=3), 5_000
)
def test_arbitrary_settings_load_or_raise_driftloop_error(batch: list[dict[str, str]]) -> None:
    for environ in batch:
        try:
            found = load({name: value for name, value in environ.items() if not name.endswith("_FILE")})
        except DriftloopError as error:
            assert str(error).endswith(".")
            count("settings", "refused")
        else:
            assert load(environment(found)) == found
            count("settings", "read")


SAVED = msgspec.msgpack.decode(DriftMonitor(("fused",), "s").save())
ROWS = msgspec.msgpack.decode(DriftMonitor(("fused",), "s").rows())
STATES = st.builds(
    lambda watch, applied: {"watch": watch if isinstance(watch, bytes) else _packed(watch), "applied": applied},
    st.dictionaries(st.sampled_from(sorted(SAVED)), VALUES, max_size=1).map(lambda changed: SAVED | changed)
    | st.binary(max_size=20),
    st.just({"events-0": 7}) | VALUES,
)
PARTS = st.lists(
    st.dictionaries(st.sampled_from(sorted(ROWS)), VALUES, max_size=1).map(lambda changed: _packed(ROWS | changed))
    | st.binary(max_size=20)
    | st.just(msgspec.msgpack.encode(ROWS | {"fused": {}})),
    max_size=2,
)


@each(st.tuples(STATES.map(lambda state: _packed(state)) | st.binary(max_size=40), PARTS), 5_000)
def test_arbitrary_stored_state_restores_or_is_refused(batch: list[tuple[bytes, list[bytes]]]) -> None:
    """As bytes of ours: what is not signed with the key is not even looked at."""
    for body, rows in batch:
        stored = hmac.digest(b"key", body, hashlib.sha256) + body
        try:
            state = _unsigned(stored, "key")
            assert _unsigned(_signed(state, "key"), "key") == state
            DriftMonitor(("fused",), "s").restore(state.watch, rows)
        except ValueError:
            count("the monitor's state", "refused")
        else:
            count("the monitor's state", "read")
        with pytest.raises(ValueError, match="not signed"):
            _unsigned(stored, "another key")


def _packed(value: Any) -> bytes:
    return msgspec.msgpack.encode(_packable(value))


def _packable(value: Any) -> Any:
    """MessagePack has neither lone surrogates nor whole numbers over 64 bits."""
    if isinstance(value, dict):
        return {_packable(name): _packable(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_packable(one) for one in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return value if not isinstance(value, int) or -(2**63) <= value < 2**64 else str(value)


MANIFEST_OF_ONE = Manifest(
    created_at=1.0,
    labels=["a", "b"],
    head="skops",
    encoder_digest="d",
    dimension=2,
    max_tokens=64,
    lineage=Lineage(candidate="linear"),
    canary=Canary(texts=["t"], probabilities=[[0.5, 0.5]]),
    files={"head.skops": "0" * 64},
)


def test_arbitrary_manifest_loads_or_raises_driftloop_error(tmp_path: Path) -> None:
    @each(bent(json.loads(msgspec.json.encode(MANIFEST_OF_ONE))) | RAW, 5_000)
    def check(batch: list[bytes]) -> None:
        for body in batch:
            (tmp_path / MANIFEST).write_bytes(body)
            try:
                read_manifest(tmp_path)
            except DriftloopError:
                count("manifests", "refused")
            else:
                count("manifests", "read")

    check()


TOML_KEYS = ["name", "seed", "rate", "limit", "order", "mix", "drifts", "label_delay", "dataset", "inject", "nonsense"]


def test_arbitrary_scenario_file_loads_or_raises_driftloop_error(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    lines = st.tuples(st.sampled_from(TOML_KEYS), LEAVES | st.lists(LEAVES, max_size=2)).map(
        lambda pair: f"{pair[0]} = {json.dumps(pair[1])}"
    )

    @each(
        st.lists(lines | TEXT, max_size=4).map("\n".join).map(lambda t: t.encode("utf-8", "surrogatepass")) | RAW, 5_000
    )
    def check(batch: list[bytes]) -> None:
        for body in batch:
            path.write_bytes(b'dataset = { packaged = "tweets" }\n' + body)
            try:
                read_spec(str(path))
            except DriftloopError:
                count("scenario files", "refused")
            else:
                count("scenario files", "read")

    check()


def test_arbitrary_csv_file_loads_or_raises_driftloop_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is read is what a producer can send."""
    monkeypatch.setenv("DRIFTLOOP_CACHE", str(tmp_path / "cache"))
    cells = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(
        ['"', ",", "\n", '""', "\x00", "NaN", "null", "", "\r", "1e999"]
    )
    files = st.builds(
        lambda head, rows: head + "\n" + "\n".join(",".join(row) for row in rows),
        st.sampled_from(
            ["text,label", "text,label,text", "label", '"text","label', ",,", "text;label", "\ufefftext,label"]
        ),
        st.lists(st.lists(cells, max_size=3) | st.just(["a text", "a label"]), max_size=4),
    ).map(lambda text: text.encode("utf-8", "surrogatepass"))
    number = 0

    @each(files | RAW, 500, 30)
    def check(batch: list[bytes]) -> None:
        nonlocal number
        for body in batch:
            number += 1
            path = tmp_path / f"{number}.csv"
            path.write_bytes(body)
            try:
                table = datasets.load(DatasetSpec(path=path.name), tmp_path)
            except DriftloopError:
                count("CSV files", "refused")
            else:
                count("CSV files", "read")
                for text, label in zip(table.texts, table.labels, strict=True):
                    messages.encode(made(Event, text=text))
                    messages.encode(made(Label, label=label))
            finally:
                path.unlink()

    check()


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("event_id", "", "length >= 1"),
        ("event_id", "x" * 1_000_000, "length <= 1024"),
        ("event_id", "\ud800", "surrogate"),
        ("occurred_at", 1e308, "`float` <= "),
        ("occurred_at", -1e308, "`float` >= "),
        ("occurred_at", math.nan, "malformed"),
        ("position", 2**53, "`int` <= "),
        ("schema", 2, "upgrade driftloop"),
        ("schema", 0, "`int` >= 1"),
    ],
)
def test_invalid_event_field_is_refused(field: str, value: object, why: str) -> None:
    good = {"event_id": "a\n:b\x00", "text": " ", "occurred_at": 1, "position": 2**53 - 1}
    assert messages.decode(Event, json.dumps(good).encode()).event_id == "a\n:b\x00"
    with pytest.raises(ValueError, match=why):
        messages.decode(Event, json.dumps(good | {field: value}).encode())


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (Label, "label", ""),
        (Prediction, "probabilities", {"a": 1e308}),
        (Prediction, "probabilities", {"a": -0.1}),
        (Outcome, "confidence", 2),
        (ModelUpdate, "fence", 2**63),
        (ModelUpdate, "action", "rollback-all"),
        (DriftAlert, "onset_at", 1e300),
        (Retraining, "state", "exploded"),
    ],
)
def test_invalid_field_in_other_messages_is_refused(kind: type[Message], field: str, value: object) -> None:
    good = json.loads(messages.encode(whole(kind)))
    messages.decode(kind, json.dumps(good).encode())
    with pytest.raises(ValueError, match=field):
        messages.decode(kind, json.dumps(good | {field: value}).encode())


@pytest.mark.parametrize("evidence", [
    {"moved": 5}, {"moved": None}, {"moved": [1, {}, {"what": "segment", "after": "x", "before": 0, "name": []}]},
    {"predicted_mix": [{"a": "x"}, {"a": [10**400]}]}, {"label_mix": {"a": 1}}, {"words": {"a": 1}}, {"words": [[[]]]},
    {"estimated_accuracy": [{"estimate": 1e308}, 7]},
])  # fmt: skip
def test_alert_evidence_of_any_shape_is_shown(evidence: dict[str, Any]) -> None:
    alert = messages.decode(
        DriftAlert, json.dumps(json.loads(messages.encode(whole(DriftAlert))) | {"evidence": evidence}).encode()
    )
    assert drifted_segments(alert) == set()
    scores = {"rows": "x", "first_offset": [], "accuracy": {}, "checks": [7], "segments": [[]]}
    strange = made(Retraining, state="queued", trigger="a", reason="r", candidate="linear", scores=scores)
    (case,) = cases(TopicHistory(alerts=[alert], retrainings=[strange]))
    console = Console(file=io.StringIO(), width=100)
    terminal.show(case, console)
    html.render(case)


def test_unusual_version_strings_do_not_break_monitor() -> None:
    """`str.isdigit` is true of a superscript, and `int` does not read it."""
    watching = DriftMonitor(("fused",), "s")
    for version in ("1", "²", "9" * 64, "x"):
        watching.predicted(made(Prediction, model_version=version, occurred_at=time.time()))
    assert MonitorState({}, watching.save()).watch
