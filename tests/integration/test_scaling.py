"""Scorers that share the partitions: what comes and goes while events flow, and nothing is lost or done twice."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from benchmarks.harness.fault_injection import write_plan
from benchmarks.harness.fork_server import ForkServer
from driftloop.core import topics
from driftloop.core.kafka import clients
from driftloop.core.settings import Settings
from driftloop.core.topics import EVENTS, PREDICTIONS
from tests.integration.conftest import StreamHarness

pytestmark = pytest.mark.slow

PARTITIONS = 6


@pytest.fixture
def wide(settings: Settings, tmp_path: Path, fork_server: ForkServer) -> Iterator[StreamHarness]:
    """A world with a champion whose topics have six partitions, and in which every event takes a scorer 10 ms."""
    client = clients.admin(settings)
    client.create_partitions({topics.name(settings, topic): PARTITIONS for topic in (EVENTS, PREDICTIONS)})
    client.close()
    made = StreamHarness(
        replace(settings, scorer=replace(settings.scorer, min_ms_per_event=10.0)), tmp_path, fork_server
    )
    made.promote()
    yield made
    made.close()


class Load:
    """Sends a few events every 50 ms from a thread of its own, until it is stopped."""

    def __init__(self, world: StreamHarness) -> None:
        self._world = world
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            self._world.send(events=range(self.sent, self.sent + 3))
            self.sent += 3

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_scaling_up_and_down_loses_and_repeats_nothing(wide: StreamHarness) -> None:
    """Scorers go from one to three and back to one while events flow."""
    wide.start("score", DRIFTLOOP_SCORER__GROUP_INSTANCE_ID="a")
    wide.until(lambda: wide.members("scorer") == {"a"})
    with Load(wide) as load:
        time.sleep(2)
        more = [wide.start("score", DRIFTLOOP_SCORER__GROUP_INSTANCE_ID=name, restart=False) for name in ("b", "c")]
        wide.until(lambda: wide.members("scorer") == {"a", "b", "c"})
        time.sleep(3)
        for child in more:
            child.stop()
        wide.until(lambda: wide.members("scorer") == {"a"}, 15)  # they have left: nobody waits until they count as dead
        time.sleep(2)
    wide.until(lambda: wide.count(PREDICTIONS) >= load.sent)
    time.sleep(1)
    assert Counter(p.event_id for p in wide.read(PREDICTIONS)) == Counter(f"e{i}" for i in range(load.sent))


def test_control_killed_scorer_repeats_uncommitted_events(wide: StreamHarness, tmp_path: Path) -> None:
    """What the test before would see if the hand-over did not work: messages beyond one for each event."""
    wide.start("score", DRIFTLOOP_SCORER__GROUP_INSTANCE_ID="a")
    plan = tmp_path / "plan"
    other = wide.start("score", DRIFTLOOP_SCORER__GROUP_INSTANCE_ID="b", plan=plan)
    wide.until(lambda: wide.members("scorer") == {"a", "b"})
    with Load(wide) as load:
        write_plan(plan, "acknowledged", "kill")  # the broker has its results, and their events are not committed
        wide.until(lambda: other.restarts == 1)
        # It has its partitions back at once.
        wide.until(lambda: wide.members("scorer") == {"a", "b"} and load.sent > 300)
    wide.until(lambda: {p.event_id for p in wide.read(PREDICTIONS)} == {f"e{i}" for i in range(load.sent)})
    other.stop()
    said = wide.read(PREDICTIONS)
    assert len(said) > load.sent
    first: dict[str, object] = {}
    assert all(first.setdefault(p.event_id, p) == p for p in said)  # and a repetition says what was said before
