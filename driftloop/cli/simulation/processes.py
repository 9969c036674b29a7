"""Processes of a simulation: the embedded stack and driftloop's own processes, started and stopped in order."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

import driftloop
from driftloop.core import topics
from driftloop.core.kafka import acls
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import HealthSettings, Settings
from driftloop.core.settings_source import SETTINGS_FILE, environment
from driftloop.devstack.stack import EmbeddedStack
from serving.live.status import LoopStatus, ProcessStatus

REPLAY = "replay"
PROCESSORS = ("score", "monitor", "retrain")
PAGE = "serve"
"""Process of the live page. The loop works without it."""
FIRST = ("retrain", "score")
"""Processes that the first prediction needs besides the replay. The others start later, to leave them the cores."""
PATIENCE = 15.0
"""Seconds after which the other processes start even without a prediction."""
WARM = {"score": ("stream_processors.scoring.scorer",)}
"""Modules that a warm standby loads, by process. Only a gap of the scorer is a gap in the predictions."""
STOP_ORDER = (REPLAY, *PROCESSORS, PAGE)
"""The replay stops first. A resumed run scores the rest of the stream."""


@dataclass(frozen=True)
class Plan:
    """Content of a simulation."""

    scenario: str
    """Name or path, as `driftloop replay` takes it."""
    rate: str = ""
    """Events per second, or ``max``. Empty selects the scenario's own rate."""
    limit: int | None = None
    """Number of events. `None` sends all."""
    embedded: bool = True
    """Start an embedded stack. Otherwise the settings name an external stack, which has been checked."""
    on_page: Callable[[str], None] | None = lambda address: None
    """Called with the address of the live page when it answers. `None` starts no live page."""


class LoopProcesses:
    """Starts and stops the stack and driftloop's processes.

    Args:
        root: Run directory, an absolute path that exists.
        plan: Content of the simulation.
        settings: Settings of the loop. The addresses of the embedded stack replace theirs.
        status: Gets an entry for each process.
        note: Called with one line for each step of the start, also from other threads.
    """

    def __init__(
        self, root: Path, plan: Plan, settings: Settings, status: LoopStatus, note: Callable[[str], None]
    ) -> None:
        self.settings = settings
        """After the start: with the addresses of the stack and the identity of a reader."""
        self.children: dict[str, ManagedProcess] = {}
        """Started processes by verb."""
        self._root = root
        self._plan = plan
        self._status = status
        self._note = note
        self._stack = EmbeddedStack(root, progress=self._on_step, secured=settings.secured) if plan.embedded else None
        self._start_lock = threading.Lock()
        self._started_at = 0.0
        # Arguments of the processes that start later.
        self._waiting: list[list[str]] = []

    def start(self) -> None:
        """Start the stack and the processes that the first prediction needs.

        Raises:
            DriftloopError: a process could not be started. The others keep running until they are stopped.
        """
        if self._stack is not None:
            self._note("Starting Kafka, Valkey and MLflow.")
            self._stack.start()
        self._start_first()

    def start_rest(self, *, predicted: bool) -> None:
        """Start the other processes after the first prediction, or after `PATIENCE` seconds. Call it repeatedly."""
        early = not predicted and time.monotonic() - self._started_at < PATIENCE
        if early or not self._waiting:
            return
        while self._waiting:
            self._start_child(self._waiting.pop(0))
        for name, modules in WARM.items():
            self.children[name].warm = modules

    def poll_stack(self) -> None:
        """Restart services of the embedded stack that have ended. Call it repeatedly."""
        if self._stack is not None:
            self._stack.poll()

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of all running processes and services, by name."""
        pids = {name: child.pid for name, child in self.children.items() if child.pid is not None}
        return {**pids, **({} if self._stack is None else self._stack.pids)}

    @property
    def reader_variables(self) -> dict[str, str] | None:
        """Variables with the identity of a reader on the embedded stack. `None` for an external stack."""
        return None if self._stack is None else self._stack.identity(acls.role_of("watch"))

    def stop_loop(self) -> None:
        """Stop the replay and the processors. The stack and the live page keep running."""
        self._stop(REPLAY, *PROCESSORS)

    def stop_page(self) -> None:
        """Stop the live page for good."""
        self.children.pop(PAGE).stop()

    def stop_all(self) -> None:
        """Stop all processes of driftloop. The stack keeps running."""
        self._stop(*STOP_ORDER)

    def stop_stack(self) -> None:
        """Stop the embedded stack, if there is one."""
        if self._stack is not None:
            self._stack.stop()

    def _stop(self, *names: str) -> None:
        for name in names:
            if name in self.children:
                self.children[name].stop()

    def _on_step(self, line: str) -> None:
        """Start the first processes as soon as Kafka answers: they load their libraries while MLflow starts."""
        self._note(line)
        if self._stack is not None and self._stack.seconds.get("kafka"):
            self._start_first()

    def _start_first(self) -> None:
        with self._start_lock:
            if self.children:
                return
            if self._stack is not None:
                admin = self._stack.settings(self.settings)
                topics.create(admin)
                if self.settings.secured:
                    acls.sync_acls(admin)
                self.settings = self._stack.settings(self.settings, acls.role_of("watch"))
            for arguments in (self._replay_arguments(), *([name] for name in FIRST)):
                self._start_child(arguments)
            self._waiting = [["monitor"], *([] if self._plan.on_page is None else [[PAGE]])]
            self._started_at = time.monotonic()

    def _replay_arguments(self) -> list[str]:
        rate = ["--rate", self._plan.rate] if self._plan.rate else []
        limit = ["--limit", str(self._plan.limit)] if self._plan.limit else []
        return [REPLAY, self._plan.scenario, *rate, *limit]

    def _start_child(self, arguments: list[str]) -> None:
        name = arguments[0]
        child = ManagedProcess(
            name,
            [sys.executable, "-P", "-m", "driftloop", *arguments],
            env=self._environ(name),
            log=self._root / "logs" / f"{name}.log",
            restart=name != REPLAY,
        )
        self.children[name] = child
        self._status.processes[name] = ProcessStatus(name)
        child.start()

    def _environ(self, verb: str) -> dict[str, str]:
        """Return the variables of a process. On the embedded stack it gets the identity of its role only."""
        settings = self.settings
        if self._stack is not None:
            settings = self._stack.settings(settings, acls.role_of(verb))
        # The processes cannot share one health port, and this process watches them anyway.
        variables = environment(replace(settings, health=HealthSettings()))
        # All settings are in the variables, so that a settings file that changes later does not affect a restart.
        return {**variables, SETTINGS_FILE: "", "PYTHONPATH": _import_path()}


def _import_path() -> str:
    """Return the import path with the sources of driftloop, whether it is installed or not."""
    sources = str(Path(driftloop.__file__).resolve().parent.parent)
    return os.pathsep.join(filter(None, [sources, os.environ.get("PYTHONPATH")]))
