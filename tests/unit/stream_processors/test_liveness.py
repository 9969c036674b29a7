"""Liveness: a stalled processor is told from an idle one, by a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition

from driftloop.core.kafka import clients
from driftloop.core.settings import HealthSettings, Settings
from stream_processors.runtime import liveness
from stream_processors.runtime.liveness import SLOW_FACTOR, LivenessMonitor

PATIENCE = 60.0


@dataclass
class Watched:
    """Progress of a processor, its lag, and the stalls that were reported."""

    now: float = 1_000.0
    lag: int = 0
    messages: bool = True
    """True if messages wait, and not only the offset of a transaction."""
    said: list[str] = field(default_factory=list)
    progress: Any = None

    def after(self, seconds: float) -> list[str]:
        """Return the reported stalls after N seconds, with a check every three seconds."""
        for _ in range(int(seconds / 3)):
            self.now += 3
            self.progress._check(SimpleNamespace(topics=set))
        return self.said


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    made = Watched()
    monkeypatch.setattr(liveness, "time", SimpleNamespace(monotonic=lambda: made.now))
    monkeypatch.setattr(clients, "lag", lambda _client, _partitions: made.lag)
    monkeypatch.setattr(clients, "has_unread_messages", lambda _settings, _client, _partitions: made.messages)
    settings = Settings(health=HealthSettings(patience=PATIENCE))
    made.progress = LivenessMonitor("scorer", settings, "group", made.said.append)
    made.progress.owns([TopicPartition("events", 0)])
    made.progress.wait("")  # it is open
    return made


def works(watched: Watched, lag: int) -> None:
    watched.lag = lag
    watched.progress.batch_started()
    watched.progress.batch_handled(10, 0)


def test_waiting_messages_without_progress_are_a_stall(watched: Watched) -> None:
    watched.lag = 500
    assert watched.after(PATIENCE) == []
    assert "The scorer has stalled (500 messages wait and it has taken none" in watched.after(6)[0]


def test_single_unread_message_is_a_stall(watched: Watched) -> None:
    watched.lag = 1
    assert "The scorer has stalled (1 messages wait" in watched.after(PATIENCE + 6)[0]


@pytest.mark.parametrize(
    "life",
    [
        pytest.param(lambda w: w.after(3 * PATIENCE), id="nothing waits"),
        pytest.param(lambda w: (setattr(w, "lag", 1), setattr(w, "messages", False), w.after(900)), id="a marker"),
        pytest.param(lambda w: [(works(w, 90), w.after(30)) for _ in range(20)], id="slow, not still"),
        pytest.param(lambda w: (w.progress.wait("a flood"), setattr(w, "lag", 9), w.after(900)), id="excused"),
        pytest.param(
            lambda w: (w.progress.batch_started(), setattr(w, "lag", 9), w.after(PATIENCE * 9)), id="a long batch"
        ),
    ],
)  # fmt: skip
def test_control_normal_situations_are_no_stall(watched: Watched, life: Callable[[Watched], object]) -> None:
    life(watched)
    assert watched.said == []


def test_batch_that_never_ends_becomes_a_stall(watched: Watched) -> None:
    watched.lag = 9
    watched.progress.batch_started()
    assert "its batch has been under way" in watched.after(PATIENCE * (SLOW_FACTOR + 1))[0]


def test_start_that_never_ends_becomes_a_stall(watched: Watched) -> None:
    watched.lag = 9
    watched.progress.wait(liveness.FIRST_BATCH)
    watched.progress._excused = False
    assert watched.after(PATIENCE * (SLOW_FACTOR - 1)) == []
    assert watched.after(PATIENCE * 2)


def test_process_without_partitions_becomes_a_stall(watched: Watched) -> None:
    watched.progress.owns(None)
    assert watched.after(PATIENCE) == []
    assert "it has been without partitions" in watched.after(6)[0]
