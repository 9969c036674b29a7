"""What a disk can do to the loop: half of a batch on it after a crash, and no room while events flow."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer
from kafka.errors import KafkaError

from benchmarks.harness.stream_harness import StreamHarness, event
from driftloop.core import topics
from driftloop.core.kafka import clients
from driftloop.core.messages import encode
from driftloop.core.settings import Settings
from driftloop.core.topics import OUTCOMES, PREDICTIONS
from driftloop.devstack.stack import EmbeddedStack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DISK = 400
"""Megabytes."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def small_world(stack: EmbeddedStack, folder: Path) -> StreamHarness:
    settings = stack.settings(
        Settings(stream="storage", topic_prefix="storage.", partitions=2, scratch_dir=str(folder))
    )
    topics.create(settings)
    world = StreamHarness(settings, folder)
    world.promote()
    return world


def last_batch(segment: Path) -> tuple[int, int]:
    """Where the last record batch of a log segment begins, and where it ends.

    A batch is its first offset in 8 bytes, the length of what follows in 4, and that (Kafka's message format, v2).
    """
    body = segment.read_bytes()
    begin, end = 0, 0
    while end + 12 < len(body) and (length := int.from_bytes(body[end + 8 : end + 12])):
        begin, end = end, end + 12 + length
    return begin, end


@pytest.mark.parametrize("acknowledged", [False, True], ids=["half-written", "control"])
def test_half_written_batch_adds_no_event(tmp_path: Path, acknowledged: bool) -> None:
    """The control cuts into a batch that the broker had acknowledged: that the ledger must find."""
    with EmbeddedStack(tmp_path / "run") as stack:
        world = small_world(stack, tmp_path)
        try:
            world.send(events=range(300), labels=range(300))
            world.start("score")
            world.start("monitor")
            world.wait_for_audit(seconds=120)
            os.kill(stack.pids["kafka"], signal.SIGKILL)
            stack.child("kafka").stop()
            segment = tmp_path / "run" / "kafka" / "data" / "storage.events-0" / f"{0:020}.log"
            begin, end = last_batch(segment)
            with segment.open("r+b") as file:
                batch = file.read()[begin:end]
                file.truncate(end - 20 if acknowledged else end)
                if not acknowledged:
                    file.seek(end)
                    file.write(batch[: len(batch) // 2])
            stack.child("kafka").start()
            stack.wait("kafka")
            if acknowledged:
                said = world.wait_for_audit("the broker no longer has", 120)
                assert said.verdict == "PROCESSED-LESS", said
                return
            world.send(events=range(300, 400), labels=range(300, 400))
            said = world.wait_for_audit(seconds=120)
            assert said.verdict == "ALL-RECORDS-DELIVERED", said
            assert said.counts["events"] == said.counts["predictions"] == said.counts["outcomes"] == 400, said
        finally:
            world.close()


@pytest.mark.parametrize("changes", [(), ("no-waiting",)], ids=["protected", "control"])
def test_temporarily_full_disk_loses_no_event(disk: Path, tmp_path: Path, changes: tuple[str, ...]) -> None:
    """Kafka ends itself and Valkey refuses to write; both come back when there is room, and so does everything else."""
    with EmbeddedStack(disk / "run", minimum_free=0) as stack:
        world = small_world(stack, tmp_path)
        try:
            scorer = world.start("score", changes=changes, DRIFTLOOP_SCORER__BATCH="16")
            world.start("monitor")
            world.send(events=range(200), labels=range(200))
            world.until(lambda: world.count(PREDICTIONS) >= 100 or bool(changes))
            producer = clients.producer(world.settings)
            sent = {200: send(producer, world, 200)}
            assert arrived(sent[200])
            fill(disk)
            broker = stack.child("kafka")
            broker.restart = False
            for i in range(201, 5_000):  # until the broker fails: it writes to what it has allocated before
                sent[i] = send(producer, world, i)
            world.until(lambda: broker.poll() is not None, 120)
            (disk / "filler").unlink()
            broker.restart = True
            broker.start()
            stack.wait("kafka")
            stack.wait("valkey")
            world.send(events=[i for i, one in sent.items() if not arrived(one)])
            producer.close(timeout=5)
            if changes:
                scorer.kill()
            said = world.wait_for_audit("neither a prediction nor a dead letter" if changes else "", 120)
            assert said.verdict == ("PROCESSED-LESS" if changes else "ALL-RECORDS-DELIVERED"), said
            if not changes:
                assert said.counts["predictions"] == 5_000 and world.count(OUTCOMES) >= 200
        finally:
            world.close()


def send(producer: KafkaProducer, world: StreamHarness, number: int) -> Any:
    """An event on its way."""
    name = topics.name(world.settings, topics.EVENTS)
    return producer.send(name, key=f"e{number}".encode(), value=encode(event(number)))


def arrived(sent: Any) -> bool:
    """Whether the broker has it: in its last moments one refuses what it cannot write, with an error of no name."""
    try:
        return sent.get(timeout=60) is not None
    except KafkaError:
        return False


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as filler:  # a buffer would try once more when it is closed
        try:
            while True:
                filler.write(b"\0" * 65_536)
        except OSError as error:
            assert "No space left" in str(error)
