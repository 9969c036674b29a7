"""The order in which a simulation starts its processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from driftloop.cli import simulation
from driftloop.cli.simulation import Plan, Simulation
from driftloop.core.loop_progress import State
from driftloop.core.messages import Message
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import Settings
from driftloop.core.topics import Topic


class Nobody:
    """Watches without a word."""

    def on_message(self, topic: Topic, message: Message) -> None: ...
    def on_tick(self, state: State) -> None: ...
    def close(self) -> None: ...


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the processes that were started; none is."""
    names: list[str] = []
    monkeypatch.setattr(ManagedProcess, "start", lambda child: names.append(child.name))
    return names


def begun(root: Path, page: bool = True) -> Simulation:
    plan = Plan("tweets-short", 600, embedded=False, page=print if page else None)
    simulated = Simulation(root, plan, Settings(), Nobody())
    simulated.start()
    return simulated


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DRIFTLOOP_CACHE", str(tmp_path / "cache"))


def test_what_the_first_prediction_needs_has_the_cores_to_itself(started: list[str], tmp_path: Path) -> None:
    simulated = begun(tmp_path)
    simulated._start_rest()
    assert started == ["replay", "retrain", "score"]
    assert not simulated._children["score"].warm  # its spare loads the same libraries once more
    simulated.state.predictions = 1
    for _ in range(2):
        simulated._start_rest()
        assert started == ["replay", "retrain", "score", "monitor", "serve"]
    assert simulated._children["score"].warm == simulation.WARM["score"]


def test_a_first_prediction_that_does_not_come_is_not_waited_for(
    started: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulation, "PATIENCE", 0.0)
    simulated = begun(tmp_path, page=False)
    simulated._start_rest()
    assert started == ["replay", "retrain", "score", "monitor"]
