"""Whether a real scorer says truly how it gets on, and a replay what it sends and where to look."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from kafka import TopicPartition
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import HealthSettings, Settings, TimingSettings
from driftloop.core.settings_source import environment
from driftloop.core.topics import EVENTS, LABELS, PREDICTIONS
from driftloop.devstack.ports import HOST, free_port, is_free
from driftloop.devstack.stack import EmbeddedStack
from stream_processors.runtime import liveness
from tests.integration.conftest import StreamHarness, text_and_label

pytestmark = pytest.mark.timeout(180)

PATIENCE = 5.0
"""More than the time between two looks at the lag, and little more."""


class Health:
    """What a process says at its port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.environ = {"DRIFTLOOP_HEALTH__PORT": str(self.port), "DRIFTLOOP_HEALTH__PATIENCE": str(PATIENCE)}

    def look(self) -> tuple[int, str]:
        """Status and words; 0 while nobody answers."""
        try:
            answer = urllib.request.urlopen(f"http://{HOST}:{self.port}/health", timeout=5)
        except urllib.error.HTTPError as error:
            answer = error
        except OSError:
            return 0, ""
        with answer:
            return int(answer.status), str(json.load(answer)["doing"])

    def says(self, status: int, words: str) -> bool:
        found = self.look()
        return found[0] == status and words in found[1]

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://{HOST}:{self.port}/metrics", timeout=5) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = [sample for family in families for sample in family.samples]
        return {s.name: s.value for s in samples if s.labels == {"role": "scorer"}}


def test_scorer_is_healthy_while_waiting_or_idle(world: StreamHarness) -> None:
    """Waiting for the first model and having caught up both count as healthy."""
    health = Health()
    world.send(events=range(40))
    scorer = world.start("score", restart=False, **health.environ)
    world.until(lambda: health.look()[0] == 200)
    until = time.monotonic() + PATIENCE + 3
    while time.monotonic() < until:
        status, words = health.look()
        assert status == 200 and (words == "starting" or words.startswith("waiting for its first batch")), words
        time.sleep(0.2)
    waiting = health.metrics()
    assert waiting["driftloop_lag_records"] == 40 and waiting["driftloop_partitions"] == 1
    assert "driftloop_records_total" not in waiting

    world.promote()
    world.until(lambda: health.says(200, "40 messages handled, 0 waiting, 1 partitions"))
    assert world.count(PREDICTIONS) == 40
    until = time.monotonic() + PATIENCE + 2
    while time.monotonic() < until:
        assert health.look()[0] == 200, "nothing to do is no lack of progress"
        time.sleep(0.2)
    done = health.metrics()
    assert done["driftloop_lag_records"] == 0 and done["driftloop_records_total"] == 40
    assert done["driftloop_batch_seconds_count"] >= 1 and done["driftloop_batch_seconds_sum"] > 0

    scorer.stop()
    assert scorer.exit_code == 0 and is_free(health.port)


def test_stalled_scorer_reports_unhealthy(world: StreamHarness) -> None:
    """What the test above is without the fault."""
    health = Health()
    world.promote()
    world.send(events=range(5))
    scorer = world.start("score", restart=False, DRIFTLOOP_SCORER__MIN_MS_PER_EVENT="60000", **health.environ)
    world.until(lambda: health.says(503, "no progress for "))
    words = health.look()[1]
    assert "last seen waiting for its first batch" in words or "last seen starting" in words
    metrics = health.metrics()
    assert metrics["driftloop_lag_records"] == 5 and "driftloop_records_total" not in metrics
    assert world.count(PREDICTIONS) == 5, "it is stuck after the predictions, before it has answered for them"
    scorer.kill()  # it would finish the batch first


SLOW = """
import time, faust
from driftloop.core.settings_source import load
from stream_processors.scoring import scorer
start = faust.Worker.__init__
faust.Worker.__init__ = lambda *args, **options: (time.sleep(1), start(*args, **options))[1]
scorer.run(load())
"""


def test_lag_checks_do_not_break_slow_start(world: StreamHarness) -> None:
    health = Health()
    world.promote()
    world.send(events=range(5))
    environ = environment(world.settings) | health.environ | {"DRIFTLOOP_TIMING__LAG_CHECK_SECONDS": "0.01"}
    child = ManagedProcess("score", [sys.executable, "-c", SLOW], env=environ, log=world.folder / "slow.log")
    world.children.append(child)
    child.start()
    world.until(lambda: health.says(200, "5 messages handled, 0 waiting") or child.poll() is not None)
    assert child.exit_code is None, child.log_tail()


@pytest.mark.slow
def test_scorer_is_unhealthy_during_broker_outage(world: StreamHarness, private_stack: EmbeddedStack) -> None:
    health = Health()
    world.promote()
    world.send(events=range(5))
    world.start("score", restart=False, **health.environ)
    world.until(lambda: health.says(200, "5 messages handled, 0 waiting"))
    broker = private_stack.pids["kafka"]
    os.kill(broker, signal.SIGSTOP)
    try:
        world.until(lambda: health.says(503, "last seen 5 messages handled, 0 waiting"))
    finally:
        os.kill(broker, signal.SIGCONT)
    world.until(lambda: health.look()[0] == 200)
    world.send(events=range(5, 10))
    world.until(lambda: health.says(200, "10 messages handled, 0 waiting"))


def test_unreadable_lag_counts_as_no_progress(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def away(*_: object, **__: object) -> None:
        asked.append(time.monotonic())
        raise DriftloopError("No Kafka broker answers.")

    monkeypatch.setattr(clients, "consumer", away)
    health = Health()
    chosen = replace(
        settings,
        health=HealthSettings(port=health.port, patience=0.5),
        timing=TimingSettings(lag_check_seconds=0.05),
    )
    ended: list[str] = []
    with liveness.LivenessMonitor("scorer", chosen, "group", ended.append) as watched:
        watched.owns([TopicPartition("events", 0)])
        deadline = time.monotonic() + 20
        while not (health.says(503, "last seen starting") and len(asked) > 10):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert not ended, "it ended, though no new start brings a broker back"


def test_replay_prints_addresses_then_reports_progress(world: StreamHarness, tmp_path: Path) -> None:
    """Addresses of the pages come first on standard output; the progress is served over HTTP."""
    health = Health()
    rows = "".join(f"{text},{label}\n" for text, label in map(text_and_label, range(60)))
    (tmp_path / "data.csv").write_text("text,label\n" + rows)
    (tmp_path / "mine.toml").write_text('rate = 20\nbootstrap = 10\n[dataset]\npath = "data.csv"\n')
    environ = (
        environment(world.settings) | health.environ | {"DRIFTLOOP_PAGES": "The page is here\x1b[2J, MLflow there"}
    )
    command = [sys.executable, "-m", "driftloop", "replay", str(tmp_path / "mine.toml")]
    with subprocess.Popen(command, env=os.environ | environ, stdout=subprocess.PIPE, text=True) as replay:
        try:
            world.until(lambda: health.says(200, " of 60 events sent, "))
            out = replay.communicate(timeout=60)[0]
        finally:
            replay.kill()
    assert replay.returncode == 0
    assert out.splitlines()[:2] == ["The page is here\\x1b[2J", "MLflow there"]
    assert out.splitlines()[-1].startswith("60 events and 60 labels sent in ")
    assert (world.count(EVENTS), world.count(LABELS)) == (60, 60) and is_free(health.port)
