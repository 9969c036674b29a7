"""A replay whose broker freezes, dies, or never comes back; nothing is lost and nothing doubled."""

import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from driftloop.core import messages, topics
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from producers import replay
from producers.scenarios.scenarios import load_scenario

pytestmark = pytest.mark.slow

ROWS = 1_500


@pytest.fixture
def scenario(tmp_path: Path):
    lines = [f"text {n},{n % 2}" for n in range(ROWS)]
    (tmp_path / "data.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    (tmp_path / "own.toml").write_text('rate = 300\nlabel_delay = 20\nbootstrap = 100\n[dataset]\npath = "data.csv"\n')
    return load_scenario(str(tmp_path / "own.toml"))


def positions(settings, topic, kind) -> list[int]:
    return [message.position for message in clients.read_all(settings, topics.name(settings, topic), kind)]


def assert_whole(settings) -> None:
    for topic, kind in ((topics.EVENTS, messages.Event), (topics.LABELS, messages.Label)):
        counts = Counter(positions(settings, topic, kind))
        assert [p for p in range(ROWS) if p not in counts] == [], f"lost on {topic.name}"
        assert {p: n for p, n in counts.items() if n > 1} == {}, f"doubled on {topic.name}"


class Run:
    """A replay in a thread, so that the test can hurt the broker meanwhile."""

    def __init__(self, settings, scenario, **options):
        self.reached = threading.Semaphore(0)
        self._count = 0
        self._pool = ThreadPoolExecutor(1)
        self.result = self._pool.submit(replay.run, settings, scenario, progress=self._progress, **options)

    def _progress(self, sent: int, _total: int, _rate: float) -> None:
        self._count = sent

    def wait(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while self._count < count:
            assert time.monotonic() < deadline
            assert not self.result.done(), "the replay ended before the fault"
            time.sleep(0.02)


def test_replay_completes_after_broker_restart(private_stack, settings, scenario):
    run = Run(settings, scenario, patience=60)
    run.wait(300)
    os.kill(private_stack.pids["kafka"], signal.SIGKILL)
    time.sleep(1)
    private_stack.restart("kafka")
    report = run.result.result(timeout=90)
    assert (report.events, report.labels, report.complete) == (ROWS, ROWS, True)
    assert_whole(settings)


def test_broker_freeze_beyond_request_timeout_loses_nothing(private_stack, settings, scenario):
    pid = private_stack.pids["kafka"]
    run = Run(settings, scenario, patience=16)  # requests are given up and retried after 8 s
    run.wait(300)
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(10)
    finally:
        os.kill(pid, signal.SIGCONT)
    report = run.result.result(timeout=90)
    assert report.complete
    assert_whole(settings)


def test_second_run_completes_after_broker_outage(private_stack, settings, scenario):
    """The error of the first run names the position reached; every event before it is on the topic."""
    run = Run(settings, scenario, patience=4)
    run.wait(300)
    os.kill(private_stack.pids["kafka"], signal.SIGKILL)
    try:
        with pytest.raises(DriftloopError) as caught:
            run.result.result(timeout=60)
    finally:
        private_stack.restart("kafka")
    text = str(caught.value)
    assert "\n" not in text
    reached = int(text.split("stopped taking messages at position ")[1].split()[0])
    assert 250 < reached < ROWS
    assert f"of {ROWS} of the scenario own" in text
    assert "run the same command again" in text
    assert caught.value.exit_code != 0

    on_topic = positions(settings, topics.EVENTS, messages.Event)
    assert set(range(reached)) <= set(on_topic), "everything before the named position must be there"
    report = replay.run(settings, scenario, rate="max")
    assert report.resumed_from == max(on_topic) + 1
    assert_whole(settings)


def test_replay_waits_for_last_acknowledgements(private_stack, settings, scenario):
    run = Run(settings, scenario, patience=4)
    run.wait(ROWS - 200)
    os.kill(private_stack.pids["kafka"], signal.SIGKILL)
    try:
        # All that is left is sent within the second, long before the producer gives up on the first of it.
        with pytest.raises(DriftloopError, match="stopped taking messages"):
            run.result.result(timeout=60)
    finally:
        private_stack.restart("kafka")
    replay.run(settings, scenario, rate="max")
    assert_whole(settings)


def test_stop_does_not_wait_for_missing_broker(private_stack, settings, scenario):
    stop = threading.Event()
    run = Run(settings, scenario, patience=300, stop=stop)
    run.wait(300)
    os.kill(private_stack.pids["kafka"], signal.SIGKILL)
    try:
        time.sleep(1)
        stop.set()
        with pytest.raises(DriftloopError, match="stopped taking messages"):
            run.result.result(timeout=60)
    finally:
        private_stack.restart("kafka")
    replay.run(settings, scenario, rate="max")
    assert_whole(settings)


def test_row_too_long_for_kafka_is_refused(settings, tmp_path):
    (tmp_path / "long.csv").write_text("text,label\nshort,a\n" + "x" * (clients.MAX_MESSAGE + 1) + ",b\n")
    (tmp_path / "long.toml").write_text('rate = "max"\n[dataset]\npath = "long.csv"\n')
    sentence = r"Row 1 of the dataset has .* characters, more than Kafka accepts in one message"
    with pytest.raises(DriftloopError, match=sentence):
        replay.run(settings, load_scenario(str(tmp_path / "long.toml")))


def test_missing_broker_is_reported_with_address(settings, scenario, monkeypatch):
    monkeypatch.setattr(clients, "connection", lambda s: {"bootstrap_servers": [s.kafka], "bootstrap_timeout_ms": 500})
    nowhere = msgspec.structs.replace(settings, kafka="127.0.0.1:1")
    with pytest.raises(DriftloopError, match=r"No Kafka broker answers at 127\.0\.0\.1:1:"):
        replay.run(nowhere, scenario)
