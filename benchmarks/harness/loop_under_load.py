"""A whole loop that runs by itself under a steady load, so that one fault after the other can happen to it.

A replay sends made-up events with their labels behind them, a scorer, a monitor and a retrainer do their work, and a
thread starts again what has ended, as a container engine does.
"""

from __future__ import annotations

import csv
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil
from msgspec.structs import replace

from benchmarks.harness.fault_injection import write_plan
from benchmarks.harness.stream_harness import StreamHarness, text_and_label
from driftloop.cli.simulation.processes import WARM
from driftloop.core import topics
from driftloop.core.kafka import clients
from driftloop.core.messages import Event, Prediction, decode
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import Settings
from driftloop.core.topics import EVENTS, LABELS, OUTCOMES, PREDICTIONS
from driftloop.devstack.stack import SERVICES, EmbeddedStack
from serving.audit.audit import Audit, audit

PARTITIONS = 4
LABEL_DELAY = 40
PATIENCE = 150.0
"""Seconds after which something that was to happen is given up."""
SCENARIO = """
rate = {rate}
label_delay = {delay}
bootstrap = 0
seed = 7
drifts = []

[dataset]
path = "data.csv"
"""


class NotInTime(Exception):
    """Something did not happen."""


class Running:
    """Use as a context manager: the loop runs while it is open.

    Args:
        stack: a started stack, whose services may be hurt as well.
        settings: of a stream whose topics are not there yet.
        folder: for logs, plans and bundles.
        rate: events per second.
        rows: events in all; the load ends with them.
        changes: to the scorers; see `benchmarks.harness.fault_injection`.
    """

    def __init__(
        self,
        stack: EmbeddedStack,
        settings: Settings,
        folder: Path,
        *,
        rate: float = 60.0,
        rows: int = 60_000,
        changes: tuple[str, ...] = (),
    ) -> None:
        self.stack = stack
        self.settings = replace(settings, partitions=PARTITIONS)
        topics.create(self.settings)
        self.world = StreamHarness(self.settings, folder)
        self._folder = folder
        self._rate = rate
        self._rows = rows
        self._changes = changes
        self._reached = 0
        self._stop = threading.Event()
        self._nurse = threading.Thread(target=self._look_after, daemon=True, name="nurse")
        self.children: dict[str, ManagedProcess] = {}

    def __enter__(self) -> Running:
        try:
            self._begin()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _begin(self) -> None:
        with (self._folder / "data.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            writer.writerows(text_and_label(i) for i in range(self._rows))
        scenario = self._folder / "load.toml"
        scenario.write_text(SCENARIO.format(rate=self._rate, delay=LABEL_DELAY))
        self.world.promote()
        self.start("scorer", "score", DRIFTLOOP_SCORER__MEMBER="scorer")
        self.start("monitor", "monitor")
        self.start("retrainer", "retrain", DRIFTLOOP_RETRAIN__CANDIDATES="linear", DRIFTLOOP_RETRAIN__COOLDOWN="0")
        self.start("producer", "replay", FAULTY_SCENARIO=str(scenario))
        self._nurse.start()
        self.until("the first prediction", lambda: self.world.count(PREDICTIONS) > 0)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        if self._nurse.is_alive():
            self._nurse.join()
        for child in self.children.values():
            self._wake(child.pid)
            child.stop()
        self.world.outbox.close()

    def start(self, name: str, role: str, **environ: str) -> ManagedProcess:
        """A process of the loop that is started again whenever it ends."""
        plan = self._plan(name)
        plan.unlink(missing_ok=True)
        changes = self._changes if role == "score" else ()
        warm = WARM.get(role, ())
        self.children[name] = self.world.start(role, plan=plan, changes=changes, log=name, warm=warm, **environ)  # type: ignore[arg-type]
        return self.children[name]

    def stop(self, name: str) -> None:
        """End a process of the loop for good."""
        child = self.children.pop(name)
        child.restart = False
        child.stop()

    def pid(self, name: str) -> int:
        """The process id of a process of the loop or a service of the stack, waited for where it is being restarted."""
        deadline = time.monotonic() + PATIENCE
        while (found := self._child(name).pid) is None or not psutil.pid_exists(found):
            if time.monotonic() > deadline:
                raise NotInTime(f"{name} was not started again")
            time.sleep(0.05)
        return found

    def steady(self, name: str) -> bool:
        """Whether a process of the loop or a service of the stack is over what happened to it last."""
        child = self._child(name)
        return child.pid is not None and child.steady

    def signal(self, name: str, signum: signal.Signals) -> int:
        """Send it to a process of the loop or a service of the stack, as soon as it runs; returns the process id."""
        while True:
            pid = self.pid(name)
            with suppress(ProcessLookupError):  # it ended a moment ago, and nobody has noticed yet
                os.kill(pid, signum)
                return pid

    def plan(self, name: str, point: str, action: str, victim: str) -> None:
        """Let ``action`` happen to ``victim`` when the process ``name`` comes to ``point``."""
        write_plan(self._plan(name), point, action, 0 if victim == name else self.pid(victim))

    def has_happened(self, name: str) -> bool:
        """Whether the plan of a process has been carried out."""
        return not self._plan(name).exists()

    def until(self, what: str, true: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait until ``true``; brokers and stores may be away meanwhile.

        Raises:
            NotInTime: it did not become true.
        """
        deadline, last = time.monotonic() + seconds, ""
        while True:
            try:
                if true():
                    return
                last = ""
            except Exception as error:
                last = f" ({error})"
            if time.monotonic() > deadline:
                words = "\n".join(f"{name}: {child.log_tail(6)}" for name, child in self.children.items())
                raise NotInTime(f"{what} did not come within {seconds:.0f} s{last}\n{words}")
            time.sleep(0.05)

    def predicted_after(self, moment: float) -> bool:
        """Whether there is a prediction on the topic that was made after ``moment`` (Unix time)."""
        name = topics.name(self.settings, PREDICTIONS)
        with clients.assigned_consumer(self.settings, name) as client:
            for tp in client.assignment():
                client.seek(tp, max(0, client.end_offsets([tp])[tp] - 400))
            ends = client.end_offsets(list(client.assignment()))
            while any(client.position(tp) < end for tp, end in ends.items()):
                for records in client.poll(timeout_ms=200).values():
                    said = (decode(Prediction, record.value or b"") for record in records)
                    if any(one.predicted_at > moment for one in said):
                        return True
        return False

    def settle(self) -> Audit:
        """Pause the load, wait until all that was sent is through, and say what the ledger says."""
        paused: set[int] = set()
        try:
            found: list[Audit] = []

            def through() -> bool:
                # Each time, for one that was told to end is replaced by another.
                paused.add(self.signal("producer", signal.SIGSTOP))
                found[:] = [audit(self.settings)]
                counts = found[0].counts
                return found[0].clean and counts["waiting"] == counts["labels_waiting"] == 0

            try:
                self.until("all that was sent", through, 60)
            except NotInTime:
                self._say_where_they_are()
                if not found:
                    raise
            return found[0]
        finally:
            for pid in paused:
                self._wake(pid)

    def sent(self) -> tuple[int, int, int]:
        """Events on the topic, positions missing among those before the last call's end, and repeated messages.

        What was sent since then may be under way still, for the producer may have been paused while it sent.
        """
        read = clients.read_all(self.settings, topics.name(self.settings, EVENTS), Event)
        positions = {event.position for event in read}
        missing = len(set(range(self._reached)) - positions)
        self._reached = max(positions, default=-1) + 1
        return len(positions), missing, len(read) - len(positions)

    def lag(self) -> int:
        """Events and labels that are not through yet, by the ends of the topics."""
        events, labels, predictions, outcomes = (self.world.count(t) for t in (EVENTS, LABELS, PREDICTIONS, OUTCOMES))
        return max(0, events - predictions) + max(0, labels - outcomes)

    def _say_where_they_are(self) -> None:
        """Let the processors write to their logs where each of their threads is, for whoever looks into a stall."""
        for name in ("scorer", "monitor", "retrainer"):
            if (pid := self.children[name].pid) is not None:
                os.kill(pid, signal.SIGQUIT)

    def _child(self, name: str) -> ManagedProcess:
        return self.stack.child(name) if name in SERVICES else self.children[name]

    def _plan(self, name: str) -> Path:
        return self._folder / f"{name.replace(' ', '-')}.plan"

    def _look_after(self) -> None:
        """Start again what has ended, and wake after the load's end nobody."""
        while not self._stop.wait(0.1):
            for child in list(self.children.values()):
                child.poll()
            self.stack.poll()

    @staticmethod
    def _wake(pid: int | None) -> None:
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
