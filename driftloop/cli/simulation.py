"""A whole loop on one machine: the stack, the five processes, and a parent that watches until all is done."""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol

from kafka.errors import KafkaError
from msgspec.structs import replace

import driftloop
from driftloop.cli import run_directory
from driftloop.core import topics
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import acls
from driftloop.core.kafka.topic_follower import TopicFollower
from driftloop.core.loop_progress import FOLLOWED, ChildState, LoopProgress, State
from driftloop.core.messages import Message
from driftloop.core.processes.resource_usage import Usage
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import SETTINGS_FILE, HealthSettings, Settings, environment
from driftloop.core.topics import Topic
from driftloop.devstack.ports import HOST, listening
from driftloop.devstack.stack import EmbeddedStack

TICK = 0.5
"""Seconds between two looks at the children, the end offsets and the memory."""
TOO_MANY_RESTARTS = 6
RESTART_WINDOW = 90.0
"""Seconds: a process that was restarted `TOO_MANY_RESTARTS` times within them is given up."""
PROCESSORS = ("score", "monitor", "retrain")
REPLAY = "replay"
PAGE = "serve"
"""What the loop can do without: it is given up alone."""
WARM = {"score": ("stream_processors.scoring.scorer",)}
"""Whose gap is a gap in the answers, and what its spare loads."""
SELF = "simulate"
FIRST = ("retrain", "score")
"""What the first prediction waits for, with the replay; the rest starts after it, and leaves it the cores until then.
"""
PATIENCE = 15.0
"""Seconds after which the rest is started all the same."""
STOP_ORDER = (REPLAY, *PROCESSORS, PAGE)
"""First what sends, then what answers: the rest of the stream is scored by whoever resumes."""


class Observer(Protocol):
    """Watches a simulation; may be called from more than one thread, never at the same time."""

    def on_message(self, topic: Topic, message: Message) -> None:
        """A label, or a message of `driftloop.core.loop_progress.FOLLOWED`: each exactly once, each topic in its order."""
        ...

    def on_tick(self, state: State) -> None:
        """About twice a second, and whenever there is a note; the state is the same object every time."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


@dataclass(frozen=True)
class Plan:
    """What is to be simulated."""

    scenario: str
    """Name or path, as `driftloop replay` takes it."""
    events: int
    """Events that will be sent."""
    rate: str = ""
    limit: int | None = None
    embedded: bool = True
    """False: the addresses in the settings are a stack of the user's own, which `own_stack.check` has seen."""
    page: Callable[[str], None] | None = lambda address: None
    """Told the address of the live page once it answers; None: there is to be none."""
    began: float = field(default_factory=time.time)
    """Unix seconds from which the times to the first prediction and promotion count."""


@dataclass(frozen=True)
class Report:
    """How a session went."""

    seconds: float
    first_prediction_seconds: float | None
    first_promotion_seconds: float | None
    peak_memory_mb: float
    """Largest sum of the resident memory of this process and all below it; what they share counts in each."""
    cpu_seconds: dict[str, float]
    """CPU time of this session by process, each with all that it started; `SELF` for the rest."""
    restarts: dict[str, int]
    interrupted: bool
    missing: str
    """What had not come at the end, in words; empty for a whole run."""


class Simulation:
    """Use as a context manager: entering starts everything, leaving stops everything, in order.

    Args:
        root: the run directory, which exists.
        plan: what to do.
        settings: of the loop; the embedded stack's addresses replace theirs.
        observer: gets every message and the state.
    """

    def __init__(self, root: Path, plan: Plan, settings: Settings, observer: Observer) -> None:
        self.root = root.absolute()
        self.settings = settings
        """With the addresses that are used, once started, and the identity of one who reads."""
        self.state = State(began=plan.began, total=plan.events)
        self._plan = plan
        self._observer = observer
        self._stack: EmbeddedStack | None = None
        if plan.embedded:
            self._stack = EmbeddedStack(self.root, progress=self._progress, secured=settings.secured)
        self._children: dict[str, ManagedProcess] = {}
        self._waiting: list[list[str]] = []
        """Arguments of the processes that are still to be started."""
        self._launched = 0.0
        self._restarted: dict[str, deque[float]] = {}
        self._watch = threading.Lock()
        self._launch = threading.Lock()
        self._follower: TopicFollower | None = None
        self._tally: LoopProgress | None = None
        self._announced: run_directory.Running | None = None
        self._ticked = 0.0
        self._usage = Usage()

    def start(self) -> None:
        """Start the stack and the processes.

        Raises:
            DriftloopError: something could not be started; what was started is left to `stop`.
        """
        if self._stack is None:
            self._start_children()
        else:
            self._note("Starting Kafka, Valkey and MLflow.")
            # The processes load their libraries while MLflow comes up: see `_progress`.
            self._stack.start()
            self._start_children()
        reader = None if self._stack is None else self._stack.identity(acls.role_of("watch"))
        self._announced = run_directory.announce(self.root, self.settings, reader)
        self.state.phase = "waiting for the first model"

    def follow(self) -> Report:
        """Watch the topics until all that is to come has come, or the user interrupts.

        Raises:
            DriftloopError: a process failed for good; the text has its last words.
        """
        interrupted = False
        try:
            self._open()
            while not self._step():
                pass
        except KeyboardInterrupt:
            interrupted = True
        return self._report(interrupted)

    def stop_processes(self) -> None:
        """Stop the replay and the processors, in this order; the stack and the live page stay."""
        self.state.phase = "stopping"
        self._tick()
        for name in (REPLAY, *PROCESSORS):
            if name in self._children:
                self._children[name].stop()

    def stop(self) -> None:
        """Stop everything; doing it twice does no harm."""
        if self._announced is not None:
            run_directory.withdraw(self._announced)
        for name in STOP_ORDER:
            if name in self._children:
                self._children[name].stop()
        if self._follower is not None:
            self._follower.close()
            self._follower = None
        if self._stack is not None:
            self._stack.stop()

    def __enter__(self) -> Simulation:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _progress(self, line: str) -> None:
        """A step of the stack: as soon as Kafka answers, the topics are made and the processes started."""
        self._note(line)
        if self._stack is not None and self._stack.seconds.get("kafka"):
            self._start_children()

    def _start_children(self) -> None:
        with self._launch:
            if self._children:
                return
            if self._stack is not None:
                admin = self._stack.settings(self.settings)
                topics.create(admin)
                if self.settings.secured:
                    acls.sync_acls(admin)
                self.settings = self._stack.settings(self.settings, acls.role_of("watch"))
            replay = [REPLAY, self._plan.scenario]
            replay += ["--rate", self._plan.rate] if self._plan.rate else []
            replay += ["--limit", str(self._plan.limit)] if self._plan.limit else []
            for arguments in (replay, *([name] for name in FIRST)):
                self._start_child(arguments)
            self._waiting = [["monitor"], *([] if self._plan.page is None else [[PAGE]])]
            self._launched = time.monotonic()

    def _start_rest(self) -> None:
        """Start what the first prediction does not need, once it is there or takes long."""
        early = not self.state.predictions and time.monotonic() - self._launched < PATIENCE
        if early or not self._waiting:
            return
        while self._waiting:
            self._start_child(self._waiting.pop(0))
        for name, modules in WARM.items():
            self._children[name].warm = modules

    def _start_child(self, arguments: list[str]) -> None:
        name = arguments[0]
        child = ManagedProcess(
            name,
            [sys.executable, "-P", "-m", "driftloop", *arguments],
            env=self._variables(name),
            log=self.root / "logs" / f"{name}.log",
            restart=name != REPLAY,
        )
        self._children[name] = child
        self.state.children[name] = ChildState(name)
        child.start()

    def _variables(self, verb: str) -> dict[str, str]:
        """The environment of a process: on a stack of our own it has the identity of its role and of no other."""
        settings = self.settings
        if self._stack is not None:
            settings = self._stack.settings(settings, acls.role_of(verb))
        # One port for health cannot be shared by four processes, and this one sees how they are.
        # They have all settings from this process: a file that changes meanwhile is not for a child that starts again.
        own = {SETTINGS_FILE: "", **_import_path()}
        return {**environment(replace(settings, health=HealthSettings())), **own}

    def _open(self) -> None:
        self._tally = LoopProgress(self.state, topics.name(self.settings, topics.EVENTS))
        self._follower = TopicFollower(self.settings, (*FOLLOWED, topics.LABELS))

    def _step(self) -> bool:
        """Read what has come; True when the simulation is through."""
        assert self._follower is not None and self._tally is not None  # noqa: S101
        polled = list(self._follower.poll())
        with self._watch:
            for topic, message in polled:
                self._tally.add(topic, message)
                self._observer.on_message(topic, message)
        if time.monotonic() - self._ticked < TICK:
            return False
        if self._stack is not None:
            self._stack.poll()
        self._start_rest()
        self._look_at_children()
        current = self._measure()
        self._tick()
        return current and self._children[REPLAY].exit_code == 0 and self._tally.finished

    def _measure(self) -> bool:
        """Read the end offsets and the memory; False when the broker did not answer."""
        assert self._follower is not None and self._tally is not None  # noqa: S101
        state = self.state
        self._look()
        state.memory_mb = self._usage.memory_mb
        state.peak_memory_mb = max(state.peak_memory_mb, state.memory_mb)
        if state.predictions:
            state.phase = "finishing" if self._children[REPLAY].exit_code == 0 else "running"
        try:
            events, labels = (self._follower.written(topic) for topic in (topics.EVENTS, topics.LABELS))
        except KafkaError:
            return False
        self._tally.ends(events, labels)
        return True

    def _look(self) -> None:
        """Measure what everything uses."""
        pids = {name: child.pid for name, child in self._children.items() if child.pid is not None}
        self._usage.look({**pids, **({} if self._stack is None else self._stack.pids)})

    def _look_at_children(self) -> None:
        given_up: ManagedProcess | None = None
        for name, child in self._children.items():
            seen = self.state.children[name]
            code = child.poll()
            recent = self._restarted.setdefault(name, deque(maxlen=TOO_MANY_RESTARTS))
            if child.restarts > seen.restarts:
                recent.append(time.monotonic())
                seen.last_words = _last_sentence(child)
            seen.running, seen.restarts, seen.exit_code = child.pid is not None, child.restarts, code
            if name == REPLAY and code:
                raise DriftloopError(_obituary(child, f"ended with status {code}"))
            keeps_ending = len(recent) == TOO_MANY_RESTARTS and recent[-1] - recent[0] < RESTART_WINDOW
            if keeps_ending and name == PAGE:
                given_up = child
            elif keeps_ending:
                raise DriftloopError(_obituary(child, f"was restarted {child.restarts} times and keeps ending"))

        if given_up is not None:
            self._children.pop(PAGE).stop()
            self._note(f"There is no live page: {_obituary(given_up, 'keeps ending')}")
        elif PAGE in self._children and not self.state.page:
            self._look_at_page()

    def _look_at_page(self) -> None:
        """Say where the live page is, once it is there."""
        chosen = self.settings.api
        if self._plan.page is not None and listening(chosen.port):
            self.state.page = f"http://{HOST}:{chosen.port}"
            self._note(f"The live page is at {self.state.page}")
            self._plan.page(self.state.page)

    def _tick(self) -> None:
        self._ticked = time.monotonic()
        with self._watch:
            self._observer.on_tick(self.state)

    def _note(self, line: str) -> None:
        self.state.notes.append(line)
        self._tick()

    def _report(self, interrupted: bool) -> Report:
        state = self.state
        self._look()
        return Report(
            seconds=time.time() - state.began,
            first_prediction_seconds=state.first_prediction_seconds,
            first_promotion_seconds=state.first_promotion_seconds,
            peak_memory_mb=round(state.peak_memory_mb, 1),
            cpu_seconds=self._usage.cpu_seconds(SELF),
            restarts={name: child.restarts for name, child in self._children.items()},
            interrupted=interrupted,
            missing=self._tally.missing if self._tally is not None else "nothing was read",
        )


def remember(root: Path, record: run_directory.Record, report: Report) -> run_directory.Record:
    """The record with this session's clock added, written to the run directory and returned."""
    before = record.seconds

    def earliest(known: float | None, fresh: float | None) -> float | None:
        return known if known is not None or fresh is None else before + fresh

    updated = replace(
        record,
        sessions=record.sessions + 1,
        seconds=before + report.seconds,
        first_prediction_seconds=earliest(record.first_prediction_seconds, report.first_prediction_seconds),
        first_promotion_seconds=earliest(record.first_promotion_seconds, report.first_promotion_seconds),
        peak_memory_mb=max(record.peak_memory_mb, report.peak_memory_mb),
        cpu_seconds={
            name: record.cpu_seconds.get(name, 0.0) + report.cpu_seconds.get(name, 0.0)
            for name in {**record.cpu_seconds, **report.cpu_seconds}
        },
    )
    run_directory.save(root, updated)
    return updated


def software() -> dict[str, str]:
    """Versions of what ran, for the summary."""
    return {
        "driftloop": driftloop.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def _import_path() -> dict[str, str]:
    """Children find driftloop where this process found it, whether it is installed or not."""
    sources = str(Path(driftloop.__file__).resolve().parent.parent)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [sources, os.environ.get("PYTHONPATH")]))}


def _last_sentence(child: ManagedProcess) -> str:
    lines = [line.strip() for line in child.log_tail().splitlines() if line.strip()]
    return lines[-1].removeprefix("driftloop: ")[:500] if lines else ""


def _obituary(child: ManagedProcess, how: str) -> str:
    words = _last_sentence(child)
    return f"The process `{child.name}` {how}{f': {words}' if words else '.'} (Its log is {child.log}.)"
