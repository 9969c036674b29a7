"""Stream harness on a real stack: made-up texts, a champion and the processes of the loop. Nothing is mocked.

Tests and benchmarks send messages, disturb the processes, and check the messages that come out.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kafka.errors import CoordinatorNotAvailableError

from benchmarks.harness.fork_server import ForkedProcess, ForkServer
from benchmarks.harness.train_champion import add_first_stage
from driftloop.core import topics
from driftloop.core.kafka import clients
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import Event, Label, Message
from driftloop.core.models.bundle import Lineage
from driftloop.core.models.onnx_export import exported_encoder
from driftloop.core.models.registry import CandidateRecord
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import Settings
from driftloop.core.settings_source import environment
from driftloop.core.topics import Topic
from retrain.candidates import catalogue
from retrain.candidates.base import Budget, Task
from retrain.promotion.first_stage import MIN_ROWS
from retrain.promotion.promoter import Promoter
from retrain.training_window import TrainingWindow
from serving.audit.audit import Audit, audit

WORDS = {"negative": ("awful", "late", "lost", "broken"), "positive": ("great", "thanks", "lovely", "best")}
CALIBRATION_ROWS = 300
"""Rows that a cascade is calibrated on."""
LINEAGE = {"dataset_revision": "", "topic": "", "first_offset": "-1", "last_offset": "-1"}
"""Lineage of a registered version that was trained on no topic's messages."""


def text_and_label(i: int) -> tuple[str, str]:
    """Return the i-th made-up text and its label."""
    rng = random.Random(i)
    label = rng.choice(sorted(WORDS))
    return f"{rng.choice(WORDS[label])} {rng.choice(WORDS[label])} flight number {i}", label


def event(i: int) -> Event:
    """Return the i-th event."""
    return Event(event_id=f"e{i}", text=text_and_label(i)[0], segment="made-up", occurred_at=1000.0 + i, position=i)


def label(i: int) -> Label:
    """Return the label of the i-th event."""
    return Label(event_id=f"e{i}", label=text_and_label(i)[1], labelled_at=2000.0 + i, position=i)


def findings_text(report: Audit) -> str:
    """Return the findings of an audit as one line."""
    return "; ".join(finding.what for finding in report.findings)


@dataclass
class StreamHarness:
    """One stream: messages sent, messages read, and the processes between them."""

    settings: Settings
    folder: Path
    """Folder for logs and bundles."""
    fork_server: ForkServer | None = None
    """Server that the processes are forked from. None starts an interpreter for each."""
    children: list[ManagedProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outbox = ConfirmedProducer(self.settings)

    def send(self, events: range = range(0), labels: range = range(0)) -> None:
        """Send events and labels and wait until the broker has acknowledged them.

        Args:
            events: Numbers of the events.
            labels: Numbers of the events whose labels are sent.
        """
        for i in events:
            self.outbox.put("events", f"e{i}", event(i))
        for i in labels:
            self.outbox.put("labels", f"e{i}", label(i))
        self.outbox.flush()

    def start(
        self,
        role: str,
        *,
        restart: bool = True,
        plan: Path | None = None,
        changes: Sequence[str] = (),
        log: str = "",
        warm: Sequence[str] = (),
        **environ: str,
    ) -> ManagedProcess:
        """Start a process of the loop.

        `benchmarks.harness.fault_injection` describes plans and changes.

        Args:
            role: `score`, `monitor`, `retrain`, or `replay` for the scenario in the variable FAULTY_SCENARIO.
            restart: Start it again when it ends.
            plan: File in which the process looks for faults.
            changes: Changes made to the code of the process.
            log: Name of the log file without its suffix. Default: the role.
            warm: Modules that a warm standby imports.
            **environ: Further environment variables.
        """
        faulty = plan is not None or changes
        module = ["benchmarks.harness.fault_injection", role, str(plan), *changes] if faulty else ["driftloop", role]
        argv = [sys.executable, "-m", *module]
        env, file = environment(self.settings) | environ, self.folder / f"{log or role}.log"
        child = ManagedProcess(role, argv, env=env, log=file, restart=restart, warm=warm)
        if self.fork_server is not None and not warm:
            child = ForkedProcess(role, argv, env=env, log=file, restart=restart)
            child.server = self.fork_server
        child.start()
        self.children.append(child)
        return child

    def close(self) -> None:
        """Stop the processes and disconnect from the broker."""
        for child in self.children:
            child.stop()
        self.outbox.close()

    def read(self, topic: Topic) -> list[Message]:
        """Return every message on a topic."""
        return clients.read_all(self.settings, topics.name(self.settings, topic), topic.message)

    def count(self, topic: Topic) -> int:
        """Return the number of messages that a topic has received."""
        name = topics.name(self.settings, topic)
        return clients.message_counts(self.settings, [name])[name]

    def members(self, role: str) -> set[str]:
        """Return the names of the processes in a role's consumer group. Empty while it rebalances."""
        client = clients.admin(self.settings)
        group = clients.group_id(role, self.settings)
        try:
            found = client.describe_groups([group])[group]
        except CoordinatorNotAvailableError:  # the group does not exist yet
            return set()
        finally:
            client.close()
        settled = found["group_state"] == "Stable"
        return {member["group_instance_id"] for member in found["members"]} if settled else set()

    def wait_for_audit(self, complaint: str = "", seconds: float = 60) -> Audit:
        """Wait until every message is processed and return the audit.

        Args:
            complaint: Text of a finding to wait for. Default: wait for an audit without findings.
            seconds: Timeout.

        Raises:
            AssertionError: No such audit within ``seconds``.
        """
        newest: list[Audit] = []

        def done() -> bool:
            newest[:] = [audit(self.settings)]
            counts = newest[0].counts
            if complaint:
                return counts["waiting"] == 0 and complaint in findings_text(newest[0])
            return newest[0].clean and counts["waiting"] == 0 and counts["outcomes"] == counts["labels"]

        self.until(done, seconds)
        return newest[0]

    def until(self, true: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until a condition is true.

        Args:
            true: Called until it returns True.
            seconds: Timeout.

        Raises:
            AssertionError: The condition is still false. The text has the end of each process's log.
        """
        deadline = time.monotonic() + seconds
        while not true():
            for child in self.children:
                child.poll()
            logs = "\n".join(f"{child.name}: {child.log_tail()}" for child in self.children)
            assert time.monotonic() < deadline, f"the condition is still false after {seconds} s\n{logs}"
            time.sleep(0.1)

    def promote(
        self,
        flipped: bool = False,
        mixture: bool = False,
        tampered: bool = False,
        truncated: bool = False,
        announce: bool = True,
        rows: int = 80,
        trigger: str = "",
        until: float = 0.0,
        cascade: bool = False,
    ) -> str:
        """Train, register and announce a champion, and return its version.

        Args:
            flipped: Train on swapped labels, so that its predictions are wrong.
            mixture: Train a mixture, which learns from every label, in place of a linear head.
            tampered: Sign the bundle with a key that the processes do not trust.
            truncated: Cut the file of the head in half.
            announce: Publish the promotion on `model-updates`.
            rows: Number of rows to learn from.
            trigger: Trigger in the lineage.
            until: Time of the newest event in the lineage.
            cascade: Add a first stage, and the rows that it needs.
        """
        rows = rows + MIN_ROWS + CALIBRATION_ROWS if cascade else rows
        encoder = exported_encoder(self.settings.model)
        pairs = [text_and_label(10_000 + i) for i in range(rows)]
        other = {"negative": "positive", "positive": "negative"}
        texts = tuple(text for text, _ in pairs)
        window = TrainingWindow(
            event_ids=texts,
            texts=texts,
            labels=tuple(other[true] if flipped else true for _, true in pairs),
            embeddings=encoder.embed(texts),
            encoder=encoder.folder,
            onset=0,
        )
        bundle = self.folder / f"bundle-{time.monotonic_ns()}"
        candidate = "mixture" if mixture else "linear"
        task = Task(
            budget=Budget(60.0),
            model=self.settings.model,
            lineage=Lineage(candidate=candidate, trained_until=until),
            signing_key="an untrusted key" if tampered else self.settings.signing_key,
            scratch=self.folder,
        )
        catalogue.find(candidate).fit(window, task, bundle)
        if truncated:
            file = bundle / "head.skops"
            half = file.read_bytes()[: file.stat().st_size // 2]
            file.write_bytes(half)
        if cascade:
            train, held = window.take(slice(None, -CALIBRATION_ROWS)), window.take(slice(-CALIBRATION_ROWS, None))
            add_first_stage(bundle, train, held, self.settings)
        promoter = Promoter(self.settings, self.outbox)
        tags = LINEAGE | {"candidate": candidate, "trigger": trigger}
        version = promoter.registry.register(CandidateRecord(candidate, bundle, {}, {}, tags))
        if announce:
            promoter.promote(version, "test", trigger)
        else:
            promoter.registry.set_champion(version)
            promoter.registry.set_verdict(version, "promoted", "test")
        return version
