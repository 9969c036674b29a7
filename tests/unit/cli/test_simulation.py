"""The order in which a simulation starts its processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from driftloop.cli.simulation import processes
from driftloop.cli.simulation.processes import LoopProcesses, Plan
from driftloop.cli.simulation.simulation import Simulation
from driftloop.core.messages import Message
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import Settings
from serving.live.loop_state import LoopState
from serving.live.status import LoopStatus


class SilentObserver:
    """Observes a simulation and prints nothing."""

    def on_message(self, message: Message) -> None: ...
    def on_tick(self) -> None: ...
    def close(self) -> None: ...


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the processes that were started; none is."""
    names: list[str] = []
    monkeypatch.setattr(ManagedProcess, "start", lambda child: names.append(child.name))
    return names


def begun(root: Path, page: bool = True) -> LoopProcesses:
    plan = Plan("tweets-short", embedded=False, on_page=print if page else None)
    found = LoopProcesses(root, plan, Settings(), LoopStatus(began=0.0), print)
    found.start()
    return found


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DRIFTLOOP_CACHE", str(tmp_path / "cache"))


def test_other_processes_start_after_first_prediction(started: list[str], tmp_path: Path) -> None:
    """Processes needed for the first prediction have all cores until then."""
    found = begun(tmp_path)
    found.start_rest(predicted=False)
    assert started == ["replay", "retrain", "score"]
    assert not found.children["score"].warm  # its spare loads the same libraries once more
    for _ in range(2):
        found.start_rest(predicted=True)
        assert started == ["replay", "retrain", "score", "monitor", "serve"]
    assert found.children["score"].warm == processes.WARM["score"]


def test_late_first_prediction_does_not_block_startup(
    started: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 0.0)
    found = begun(tmp_path, page=False)
    found.start_rest(predicted=False)
    assert started == ["replay", "retrain", "score", "monitor"]


def test_simulation_start_launches_processes_and_announces_run(started: list[str], tmp_path: Path) -> None:
    loop = LoopState("tweets-short", 0, (), LoopStatus(began=0.0, total=600))
    plan = Plan("tweets-short", embedded=False)
    simulation = Simulation(tmp_path, plan, Settings(), loop, SilentObserver())
    simulation.start()
    assert started == ["replay", "retrain", "score"]
    assert list(loop.status.processes) == started
    assert (tmp_path / "running.json").exists()
    simulation.stop()
    assert not (tmp_path / "running.json").exists()
