"""Complete loop under a steady load, for faults that are injected one after the other.

A replay sends made-up events with late labels. A scorer, a monitor and a retrainer run beside it. A thread restarts
processes that have ended, as a container engine does.
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
from driftloop.core.messages import Event, MixtureUpdate, ModelUpdate, Outcome, Prediction, decode
from driftloop.core.models.registry import Registry
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import Settings
from driftloop.core.topics import EVENTS, MIXTURE_UPDATES, MODEL_UPDATES, OUTCOMES, PREDICTIONS
from driftloop.devstack.stack import SERVICES, EmbeddedStack
from serving.audit.audit import Audit, audit

PARTITIONS = 4
LABEL_DELAY = 40
PATIENCE = 150.0
"""Seconds after which waiting for a condition fails."""
SCENARIO = """
rate = {rate}
label_delay = {delay}
bootstrap = 0
seed = 7
drifts = []

[dataset]
path = "data.csv"
"""


class WaitTimeout(Exception):
    """A condition did not become true in time."""


class LoopUnderLoad:
    """Runs the loop while it is open. Use it as a context manager.

    Args:
        stack: A started stack. Its services may be disturbed too.
        settings: A stream whose topics do not exist yet.
        folder: Folder for logs, plans and bundles.
        rate: Events per second.
        rows: Number of events. The load ends after them.
        changes: Changes to the code of the scorers, from `benchmarks.harness.fault_injection.CHANGES`.
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
        self.harness = StreamHarness(self.settings, folder)
        self._folder = folder
        self._rate = rate
        self._rows = rows
        self._changes = changes
        self._reached = 0
        self._promotion: threading.Thread | None = None
        self._stop = threading.Event()
        self._restarter = threading.Thread(target=self._restart_ended, daemon=True, name="restarter")
        self.children: dict[str, ManagedProcess] = {}
        self.unlearnt = 0
        """Labelled events that the champion's mixture had not learnt at the end of the last audit."""

    def __enter__(self) -> LoopUnderLoad:
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
        self.harness.promote(mixture=True)
        self.start("scorer", "score", DRIFTLOOP_SCORER__GROUP_INSTANCE_ID="scorer")
        self.start("monitor", "monitor")
        self.start("retrainer", "retrain", DRIFTLOOP_RETRAIN__CANDIDATES="linear", DRIFTLOOP_RETRAIN__COOLDOWN="0")
        self.start("producer", "replay", FAULTY_SCENARIO=str(scenario))
        self._restarter.start()
        self.until("the first prediction", lambda: self.harness.count(PREDICTIONS) > 0)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        if self._restarter.is_alive():
            self._restarter.join()
        for child in self.children.values():
            self._resume(child.pid)
            child.stop()
        self.harness.outbox.close()

    def start(self, name: str, role: str, **environ: str) -> ManagedProcess:
        """Start a process of the loop that is restarted whenever it ends.

        Args:
            name: Name of the process and of its log.
            role: `score`, `monitor`, `retrain` or `replay`.
            **environ: Further environment variables.
        """
        plan = self._plan(name)
        plan.unlink(missing_ok=True)
        changes = self._changes if role == "score" else ()
        warm = WARM.get(role, ())
        self.children[name] = self.harness.start(role, plan=plan, changes=changes, log=name, warm=warm, **environ)  # type: ignore[arg-type]
        return self.children[name]

    def stop(self, name: str) -> None:
        """Stop a process of the loop without a restart."""
        child = self.children.pop(name)
        child.restart = False
        child.stop()

    def pid(self, name: str) -> int:
        """Return the id of a process of the loop or a service of the stack. Waits while it is being restarted.

        Raises:
            WaitTimeout: It was not restarted.
        """
        deadline = time.monotonic() + PATIENCE
        while (found := self._child(name).pid) is None or not psutil.pid_exists(found):
            if time.monotonic() > deadline:
                raise WaitTimeout(f"{name} was not restarted within {PATIENCE:.0f} s")
            time.sleep(0.05)
        return found

    def has_recovered(self, name: str) -> bool:
        """Return True if a process of the loop or a service of the stack has recovered from its last fault."""
        child = self._child(name)
        return child.pid is not None and child.steady

    def signal(self, name: str, signum: signal.Signals) -> int:
        """Send a signal to a process of the loop or a service of the stack, as soon as it runs.

        Args:
            name: Name of the process or service.
            signum: The signal.

        Returns:
            The process id.
        """
        while True:
            pid = self.pid(name)
            with suppress(ProcessLookupError):  # it has just ended and is not restarted yet
                os.kill(pid, signum)
                return pid

    def plan_fault(self, name: str, point: str, action: str, victim: str) -> None:
        """Plan a fault for the next time that a process reaches a point of its work.

        Args:
            name: Process whose work has the point.
            point: One of `benchmarks.harness.fault_injection.POINTS`.
            action: One of `benchmarks.harness.fault_injection.ACTIONS`.
            victim: Process or service that the action happens to.
        """
        write_plan(self._plan(name), point, action, 0 if victim == name else self.pid(victim))

    def fault_has_happened(self, name: str) -> bool:
        """Return True if the planned fault of a process has happened."""
        return not self._plan(name).exists()

    def begin_promotion(self, *, flipped: bool, mixture: bool) -> None:
        """Promote another champion in the background: MLflow may be disturbed before it has answered.

        Args:
            flipped: Train it on swapped labels.
            mixture: Train a mixture.
        """

        def promote() -> None:
            with suppress(Exception):
                self.harness.promote(flipped=flipped, mixture=mixture)

        self._promotion = threading.Thread(target=promote, daemon=True, name="promotion")
        self._promotion.start()

    def until(self, what: str, true: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait until a condition is true. Brokers and stores may be unreachable meanwhile.

        Args:
            what: Name of the condition, for the message.
            true: Called until it returns True.
            seconds: Timeout.

        Raises:
            WaitTimeout: The condition is still false.
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
                logs = "\n".join(f"{name}: {child.log_tail(6)}" for name, child in self.children.items())
                raise WaitTimeout(f"{what} did not come within {seconds:.0f} s{last}\n{logs}")
            time.sleep(0.05)

    def predicted_after(self, moment: float) -> bool:
        """Return True if the topic has a prediction made after ``moment`` (Unix time)."""
        name = topics.name(self.settings, PREDICTIONS)
        with clients.assigned_consumer(self.settings, name) as client:
            for tp in client.assignment():
                client.seek(tp, max(0, client.end_offsets([tp])[tp] - 400))
            ends = client.end_offsets(list(client.assignment()))
            while any(client.position(tp) < end for tp, end in ends.items()):
                for records in client.poll(timeout_ms=200).values():
                    predictions = (decode(Prediction, record.value or b"") for record in records)
                    if any(one.predicted_at > moment for one in predictions):
                        return True
        return False

    def pause_and_audit(self) -> Audit:
        """Pause the load, wait up to a minute until every message is processed, and return the audit."""
        if self._promotion is not None:
            self._promotion.join(PATIENCE)
        paused: set[int] = set()
        try:
            found: list[Audit] = []

            def all_processed() -> bool:
                # Each time, because a producer that was told to end is replaced by another.
                paused.add(self.signal("producer", signal.SIGSTOP))
                found[:] = [audit(self.settings)]
                counts = found[0].counts
                processed = counts["waiting"] == counts["labels_waiting"] == 0
                self.unlearnt = self._count_unlearnt()
                return found[0].clean and processed and not self.unlearnt

            try:
                self.until("processing of all messages", all_processed, 60)
            except WaitTimeout:
                self._dump_stacks()
                if not found:
                    raise
            return found[0]
        finally:
            for pid in paused:
                self._resume(pid)

    def count_sent(self) -> tuple[int, int, int]:
        """Count the events on the topic, the missing positions, and the repeated messages.

        Only positions up to the end at the last call can be missing. Later ones may still be in flight, because the
        producer may have been paused while it sent.
        """
        read = clients.read_all(self.settings, topics.name(self.settings, EVENTS), Event)
        positions = {event.position for event in read}
        missing = len(set(range(self._reached)) - positions)
        self._reached = max(positions, default=-1) + 1
        return len(positions), missing, len(read) - len(positions)

    def _count_unlearnt(self) -> int:
        """Count the labelled events that the champion's mixture has yet to learn.

        There are none if the champion is no mixture, or was restored by a rollback, after which it rests.
        """
        settings = self.settings
        champion = clients.read_all(settings, topics.name(settings, MODEL_UPDATES), ModelUpdate)[-1]
        tags = Registry(settings).tags(champion.version)
        if tags["candidate"] != "mixture" or champion.action == "rollback":
            return 0
        updates = clients.read_all(settings, topics.name(settings, MIXTURE_UPDATES), MixtureUpdate)
        own = [one.outcome_offset for one in updates if one.version == champion.version and not one.is_sample]
        learnt = max([int(tags["last_offset"]), *own])
        first: dict[str, int] = {}  # a monitor that is killed may send an outcome twice
        for records in clients.records(settings, topics.name(settings, OUTCOMES)):
            for record in records:
                first.setdefault(decode(Outcome, record.value).event_id, record.offset)
        return sum(offset > learnt for offset in first.values())

    def _dump_stacks(self) -> None:
        """Have the processors write the stack of each thread to their logs."""
        for name in ("scorer", "monitor", "retrainer"):
            if (pid := self.children[name].pid) is not None:
                os.kill(pid, signal.SIGQUIT)

    def _child(self, name: str) -> ManagedProcess:
        return self.stack.child(name) if name in SERVICES else self.children[name]

    def _plan(self, name: str) -> Path:
        return self._folder / f"{name.replace(' ', '-')}.plan"

    def _restart_ended(self) -> None:
        """Restart processes and services that have ended."""
        while not self._stop.wait(0.1):
            for child in list(self.children.values()):
                child.poll()
            self.stack.poll()

    @staticmethod
    def _resume(pid: int | None) -> None:
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
