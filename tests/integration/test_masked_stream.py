"""After a live run with masking nothing holds what was masked: no topic, no key of Redis, nothing in MLflow, no log."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftloop.core import topics
from driftloop.core.kafka import clients
from driftloop.core.models.registry import Registry
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings_source import environment
from driftloop.core.topics import OUTCOMES, PREDICTIONS
from tests.integration.conftest import StreamHarness, text_and_label

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EVENTS, WARM_UP = 240, 80
PLANTED = ("@Secretjane77", "secretjack88@example.com", "+44 20 7946 0958", "http://t.co/Secretlink99", "＠секрет_имя")
TRACES = tuple(text.encode() for text in ("secretjane77", "secretjack88", "7946 0958", "secretlink99", "секрет_имя"))
"""In lower case, as heads keep their words."""


def run(world: StreamHarness, masked: str) -> None:
    """A whole stream: its first model is trained on the first labels, and the rest is scored and joined."""
    rows = [text_and_label(i) for i in range(EVENTS)]
    lines = [f"{text} {PLANTED[i % len(PLANTED)]},{label}" for i, (text, label) in enumerate(rows)]
    (world.folder / "data.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    scenario = world.folder / "planted.toml"
    scenario.write_text(f'rate = "max"\nlabel_delay = 10\nbootstrap = {WARM_UP}\n[dataset]\npath = "data.csv"\n')
    env = {"DRIFTLOOP_RETRAIN__BOOTSTRAP": str(WARM_UP), "DRIFTLOOP_RETRAIN__POLICY": "never"}
    command = [sys.executable, "-m", "driftloop", "replay", str(scenario)]
    own = {**os.environ, **environment(world.settings), "DRIFTLOOP_CACHE": str(world.folder / "cache")}
    subprocess.run(command, env=own | {"DRIFTLOOP_MASK": masked}, check=True, capture_output=True, timeout=120)
    for verb in ("retrain", "score", "monitor"):
        world.start(verb, **env)
    world.until(lambda: world.count(PREDICTIONS) >= EVENTS and world.count(OUTCOMES) >= EVENTS, 120)
    for child in world.children:
        child.stop()


def everything(world: StreamHarness) -> Iterator[tuple[str, bytes]]:
    """What is kept anywhere, with the name of the place."""
    for topic in topics.ALL:
        with clients.assigned_consumer(world.settings, topics.name(world.settings, topic)) as client:
            ends = client.end_offsets(list(client.assignment()))
            while any(client.position(tp) < end for tp, end in ends.items()):
                for found in client.poll(timeout_ms=500).values():
                    yield from ((f"topic {topic.name}", (raw.key or b"") + (raw.value or b"")) for raw in found)
    store = OnlineStore(world.settings)
    for key in store.client.scan_iter(store.key("*")):
        rows = store.client.lrange(key, 0, -1) if store.client.type(key) == b"list" else [store.client.get(key) or b""]
        yield "redis", b"".join([key, *rows])
    registry = Registry(world.settings)
    for run in registry.client.search_runs([registry._experiment]):
        yield "mlflow", str(run.to_dictionary()).encode()
        target = world.folder / "artefacts" / run.info.run_id
        target.mkdir(parents=True, exist_ok=True)
        registry.client.download_artifacts(run.info.run_id, "", str(target))
        for path in target.rglob("*"):
            if path.is_file():
                yield "mlflow", b"".join(_members(path))
    for version in registry.versions():
        yield "mlflow", str(dict(version)).encode()
    for path in world.folder.glob("*.log"):
        yield "log", path.read_bytes()


def _members(path: Path) -> Iterator[bytes]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    else:
        yield path.read_bytes()


def traces(world: StreamHarness) -> dict[str, set[bytes]]:
    """By place, what of the planted is there. Bytes are lowered as text, letters beyond ASCII included."""
    found: dict[str, set[bytes]] = {}
    for place, body in everything(world):
        lowered = body.decode("utf-8", "replace").lower().encode()
        escaped = [trace.decode().encode("ascii", "backslashreplace") for trace in TRACES]
        here = {t for t, e in zip(TRACES, escaped, strict=True) if t in lowered or e in body}
        found.setdefault(place, set()).update(here)
    return found


def test_masked_text_is_stored_nowhere(world: StreamHarness) -> None:
    run(world, "handle,email,phone,link")
    found = traces(world)
    assert found.keys() >= {"topic events", "topic predictions", "topic outcomes", "redis", "mlflow", "log"}
    assert not any(found.values()), found
    assert sum(b"@user" in body or b"<phone>" in body for place, body in everything(world) if place == "topic events")


def test_control_unmasked_text_is_stored_everywhere(world: StreamHarness) -> None:
    run(world, "")
    found = traces(world)
    for place in ("topic events", "topic predictions", "topic outcomes", "redis"):
        assert found[place] == set(TRACES), place
    assert found["mlflow"], "the words of a head are among what was planted"
