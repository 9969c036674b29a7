"""A small world on a real stack: a stream of made-up texts, a champion, and the processes between; nothing is faked.

Tests and benchmarks of faults put messages in, hurt the processes, and look at what comes out.
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
from benchmarks.harness.train_champion import put_before
from driftloop.core import topics
from driftloop.core.kafka import clients
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import Event, Label, Message
from driftloop.core.models.bundle import Lineage, write_bundle
from driftloop.core.models.onnx_export import exported_encoder
from driftloop.core.models.registry import CandidateRecord
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import Settings, environment
from driftloop.core.topics import Topic
from retrain.candidates.linear import learn
from retrain.promotion.first_stage import MIN_ROWS
from retrain.promotion.promoter import Promotions
from retrain.training_window import TrainingWindow
from serving.audit.audit import Audit, audit

WORDS = {"negative": ("awful", "late", "lost", "broken"), "positive": ("great", "thanks", "lovely", "best")}

HELD = 300
"""Rows that a cascade is calibrated on."""
LINEAGE = {"candidate": "linear", "dataset_revision": "", "topic": "", "first_offset": "-1", "last_offset": "-1"}
"""What stands on a version that no topic's messages went into."""


def text_and_label(i: int) -> tuple[str, str]:
    """The i-th made-up text and its label."""
    rng = random.Random(i)
    label = rng.choice(sorted(WORDS))
    return f"{rng.choice(WORDS[label])} {rng.choice(WORDS[label])} flight number {i}", label


def event(i: int) -> Event:
    """The i-th event."""
    return Event(event_id=f"e{i}", text=text_and_label(i)[0], segment="made-up", occurred_at=1000.0 + i, position=i)


def label(i: int) -> Label:
    """Its label."""
    return Label(event_id=f"e{i}", label=text_and_label(i)[1], labelled_at=2000.0 + i, position=i)


def words(said: Audit) -> str:
    """What the ledger complains of."""
    return "; ".join(finding.what for finding in said.findings)


@dataclass
class StreamHarness:
    """One stream: what is put in, what comes out, and the processes between."""

    settings: Settings
    folder: Path
    fork_server: ForkServer | None = None
    children: list[ManagedProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outbox = ConfirmedProducer(self.settings)

    def send(self, events: range = range(0), labels: range = range(0)) -> None:
        """Put events and labels on their topics, and wait until the broker has them."""
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
        """A process of the loop: score, monitor, retrain, or replay the scenario that FAULTY_SCENARIO names.

        ``plan`` is the file in which it looks for faults, ``changes`` are made to it; see `benchmarks.harness.fault_injection`.
        """
        hurt = plan is not None or changes
        module = ["benchmarks.harness.fault_injection", role, str(plan), *changes] if hurt else ["driftloop", role]
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
        """Stop the processes, and leave the broker."""
        for child in self.children:
            child.stop()
        self.outbox.close()

    def read(self, topic: Topic) -> list[Message]:
        """Every message on a topic."""
        return clients.read_all(self.settings, topics.name(self.settings, topic), topic.message)

    def count(self, topic: Topic) -> int:
        """How many messages a topic has had."""
        full = topics.name(self.settings, topic)
        return clients.message_counts(self.settings, [full])[full]

    def members(self, role: str) -> set[str]:
        """The names of the processes that are in a role's group, once it has settled."""
        client = clients.admin(self.settings)
        group = clients.group_id(role, self.settings)
        try:
            found = client.describe_groups([group])[group]
        except CoordinatorNotAvailableError:  # nobody has asked for the group yet
            return set()
        finally:
            client.close()
        settled = found["group_state"] == "Stable"
        return {member["group_instance_id"] for member in found["members"]} if settled else set()

    def through(self, complaint: str = "", seconds: float = 60) -> Audit:
        """What the ledger says once all is through, or, where there is to be one, once it has that complaint."""
        said: list[Audit] = []

        def done() -> bool:
            said[:] = [audit(self.settings)]
            counts = said[0].counts
            if complaint:
                return counts["waiting"] == 0 and complaint in words(said[0])
            return said[0].clean and counts["waiting"] == 0 and counts["outcomes"] == counts["labels"]

        self.until(done, seconds)
        return said[0]

    def until(self, true: Callable[[], bool], seconds: float = 60) -> None:
        """Wait for a condition; the processes' last words are in the failure."""
        deadline = time.monotonic() + seconds
        while not true():
            for child in self.children:
                child.poll()
            words = "\n".join(f"{child.name}: {child.log_tail()}" for child in self.children)
            assert time.monotonic() < deadline, f"it did not happen within {seconds} s\n{words}"
            time.sleep(0.1)

    def promote(
        self,
        flipped: bool = False,
        tampered: bool = False,
        truncated: bool = False,
        announce: bool = True,
        rows: int = 80,
        trigger: str = "",
        until: float = 0.0,
        cascade: bool = False,
    ) -> str:
        """Train, register and announce a champion; a flipped one says the opposite of the truth.

        A tampered one is signed with a stranger's key, a truncated one has lost half of its head on the way. ``until``
        is the time of the newest event that it says it was trained on. With ``cascade`` it has a first stage.
        """
        rows = rows + MIN_ROWS + HELD if cascade else rows
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
        head, _ = learn(window)
        write_bundle(
            bundle,
            encoder=encoder,
            head=head,
            labels=head.classes,
            lineage=Lineage(candidate="linear", trained_until=until),
            key="a stranger's key" if tampered else self.settings.signing_key,
        )
        if truncated:
            file = bundle / "head.skops"
            half = file.read_bytes()[: file.stat().st_size // 2]
            file.write_bytes(half)
        if cascade:
            put_before(bundle, window.take(slice(None, -HELD)), window.take(slice(-HELD, None)), self.settings)
        promotions = Promotions(self.settings, self.outbox)
        version = promotions.registry.register(
            CandidateRecord("linear", bundle, {}, {}, LINEAGE | {"trigger": trigger})
        )
        if announce:
            promotions.promote(version, "test", trigger)
        else:
            promotions.registry.promote(version)
            promotions.registry.set_verdict(version, "promoted", "test")
        return version
