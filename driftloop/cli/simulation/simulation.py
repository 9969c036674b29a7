"""Simulation: runs a whole loop on one machine and follows its topics until everything is finished."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from kafka.errors import KafkaError

from driftloop.cli import run_directory
from driftloop.cli.simulation.processes import PAGE, REPLAY, LoopProcesses, Plan
from driftloop.core import topics
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka.topic_follower import TopicFollower
from driftloop.core.messages import Message
from driftloop.core.processes.resource_usage import Usage
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import Settings
from driftloop.devstack.ports import HOST, listening
from serving.live.loop_progress import LoopProgress
from serving.live.loop_state import FOLLOWED, LoopState

TICK = 0.5
"""Seconds between two checks of the processes, the end offsets and the memory."""
TOO_MANY_RESTARTS = 6
RESTART_WINDOW = 90.0
"""Seconds. A process that is restarted `TOO_MANY_RESTARTS` times within this window has failed for good."""
SELF = "simulate"
"""Name of this process in the CPU times."""


class Observer(Protocol):
    """Observes a simulation. Calls may come from several threads, but never in parallel."""

    def on_message(self, message: Message) -> None:
        """Handle a label or a message of `serving.live.loop_state.FOLLOWED`, after the state has taken it."""
        ...

    def on_tick(self) -> None:
        """Handle a change of the state, about twice a second and after each new note."""
        ...

    def close(self) -> None:
        """Handle the end of the simulation."""
        ...


@dataclass(frozen=True)
class Report:
    """Result of one session."""

    seconds: float
    first_prediction_seconds: float | None
    first_promotion_seconds: float | None
    peak_memory_mb: float
    """Largest sum of the resident memory of this process and its descendants. Shared pages count in each of them."""
    cpu_seconds: dict[str, float]
    """CPU time of this session by process, including its descendants; `SELF` for this process."""
    restarts: dict[str, int]
    interrupted: bool
    missing: str
    """Incomplete work as text; empty if the run is complete."""


class Simulation:
    """A running simulation. As a context manager it starts everything on entry and stops everything on exit.

    Args:
        root: Run directory, which exists.
        plan: Content of the simulation.
        settings: Settings of the loop. The addresses of the embedded stack replace theirs.
        loop: State of the loop, which the simulation updates.
        observer: Called after each change of the state.
    """

    def __init__(self, root: Path, plan: Plan, settings: Settings, loop: LoopState, observer: Observer) -> None:
        self._root = root.absolute()
        self._plan = plan
        self._loop = loop
        self._status = loop.status
        self._observer = observer
        self._processes = LoopProcesses(self._root, plan, settings, loop.status, self._note)
        self._observer_lock = threading.Lock()
        self._follower: TopicFollower | None = None
        self._announced: run_directory.Running | None = None
        self._restarts: dict[str, deque[float]] = {}
        self._ticked_at = 0.0
        self._usage = Usage()

    @property
    def settings(self) -> Settings:
        """Settings of the loop. After the start: with the addresses of the stack and the identity of a reader."""
        return self._processes.settings

    def start(self) -> None:
        """Start the stack and the processes, and announce the simulation to other terminals.

        Raises:
            DriftloopError: a process could not be started. `stop` stops the ones that were.
        """
        self._processes.start()
        self._announced = run_directory.announce(self._root, self.settings, self._processes.reader_variables)
        self._status.phase = "waiting for the first model"

    def follow(self) -> Report:
        """Follow the topics until everything is finished, or until the user interrupts.

        Raises:
            DriftloopError: a process failed for good. The message has the last line of its log.
        """
        interrupted = False
        try:
            self._open_topics()
            while not self._step():
                pass
        except KeyboardInterrupt:
            interrupted = True
        return self._report(interrupted)

    def stop_processes(self) -> None:
        """Stop the replay and the processors. The stack and the live page keep running."""
        self._status.phase = "stopping"
        self._tick()
        self._processes.stop_loop()

    def stop(self) -> None:
        """Stop everything. Repeated calls are safe."""
        if self._announced is not None:
            run_directory.withdraw(self._announced)
        self._processes.stop_all()
        if self._follower is not None:
            self._follower.close()
            self._follower = None
        self._processes.stop_stack()

    def __enter__(self) -> Simulation:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _open_topics(self) -> None:
        events = topics.name(self.settings, topics.EVENTS)
        self._loop.progress = LoopProgress(self._status, self._loop.history, events)
        self._follower = TopicFollower(self.settings, (*FOLLOWED, topics.LABELS))

    def _step(self) -> bool:
        """Read new messages and, every `TICK` seconds, check the processes. Return True if the run is finished."""
        assert self._follower is not None and self._loop.progress is not None  # noqa: S101
        messages = [message for _, message in self._follower.poll()]
        with self._observer_lock:
            for message in messages:
                with self._loop.lock:
                    self._loop.take(message)
                self._observer.on_message(message)
        if time.monotonic() - self._ticked_at < TICK:
            return False
        self._processes.poll_stack()
        self._processes.start_rest(predicted=bool(self._status.predictions))
        self._check_processes()
        self._announce_page()
        self._measure_usage()
        up_to_date = self._read_end_offsets()
        self._tick()
        return up_to_date and self._replay_ended and self._loop.progress.finished

    @property
    def _replay_ended(self) -> bool:
        return self._processes.children[REPLAY].exit_code == 0

    def _check_processes(self) -> None:
        """Restart processes that have ended. A live page that keeps ending is given up.

        Raises:
            DriftloopError: the replay failed, or another process keeps ending.
        """
        given_up: ManagedProcess | None = None
        for name, child in self._processes.children.items():
            exit_code = child.poll()
            keeps_ending = self._update_status(name, child, exit_code)
            if name == REPLAY and exit_code:
                raise DriftloopError(_failure(child, f"ended with status {exit_code}"))
            if keeps_ending and name == PAGE:
                given_up = child
            elif keeps_ending:
                raise DriftloopError(_failure(child, f"was restarted {child.restarts} times and keeps ending"))
        if given_up is not None:
            self._processes.stop_page()
            self._note(f"There is no live page: {_failure(given_up, 'keeps ending')}")

    def _update_status(self, name: str, child: ManagedProcess, exit_code: int | None) -> bool:
        """Update the status of a process. Return True if it was restarted too often."""
        status = self._status.processes[name]
        restarts = self._restarts.setdefault(name, deque(maxlen=TOO_MANY_RESTARTS))
        if child.restarts > status.restarts:
            restarts.append(time.monotonic())
            status.last_log_line = _last_log_line(child)
        status.running, status.restarts, status.exit_code = child.pid is not None, child.restarts, exit_code
        return len(restarts) == TOO_MANY_RESTARTS and restarts[-1] - restarts[0] < RESTART_WINDOW

    def _announce_page(self) -> None:
        """Report the address of the live page once it answers."""
        if self._status.page or PAGE not in self._processes.children or self._plan.on_page is None:
            return
        port = self.settings.api.port
        if listening(port):
            self._status.page = f"http://{HOST}:{port}"
            self._note(f"The live page is at {self._status.page}")
            self._plan.on_page(self._status.page)

    def _measure_usage(self) -> None:
        status = self._status
        self._usage.measure(self._processes.pids)
        status.memory_mb = self._usage.memory_mb
        status.peak_memory_mb = max(status.peak_memory_mb, status.memory_mb)

    def _read_end_offsets(self) -> bool:
        """Update phase and counts. Return False if the broker does not answer."""
        assert self._follower is not None and self._loop.progress is not None  # noqa: S101
        if self._status.predictions:
            self._status.phase = "finishing" if self._replay_ended else "running"
        try:
            events, labels = (self._follower.message_count(topic) for topic in (topics.EVENTS, topics.LABELS))
        except KafkaError:
            return False
        self._loop.progress.take_end_offsets(events, labels)
        return True

    def _tick(self) -> None:
        self._ticked_at = time.monotonic()
        with self._observer_lock:
            with self._loop.lock:
                self._loop.tick()
            self._observer.on_tick()

    def _note(self, line: str) -> None:
        self._status.notes.append(line)
        self._tick()

    def _report(self, interrupted: bool) -> Report:
        status, progress = self._status, self._loop.progress
        self._usage.measure(self._processes.pids)
        return Report(
            seconds=time.time() - status.began,
            first_prediction_seconds=status.first_prediction_seconds,
            first_promotion_seconds=status.first_promotion_seconds,
            peak_memory_mb=round(status.peak_memory_mb, 1),
            cpu_seconds=self._usage.cpu_seconds(SELF),
            restarts={name: child.restarts for name, child in self._processes.children.items()},
            interrupted=interrupted,
            missing="nothing was read" if progress is None else progress.missing,
        )


def _last_log_line(child: ManagedProcess) -> str:
    lines = [line.strip() for line in child.log_tail().splitlines() if line.strip()]
    return lines[-1].removeprefix("driftloop: ")[:500] if lines else ""


def _failure(child: ManagedProcess, what: str) -> str:
    line = _last_log_line(child)
    reason = f": {line}" if line else "."
    return f"The process `{child.name}` {what}{reason} (Its log is {child.log}.)"
