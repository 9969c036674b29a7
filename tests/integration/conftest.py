"""A small world on the real stack: a stream of made-up texts, a champion, and the two processors."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from driftloop import kafka, topics
from driftloop.classifiers.bundle import Lineage, manifest_digest, write_bundle
from driftloop.classifiers.onnx import exported_encoder
from driftloop.kafka import Outbox
from driftloop.lifecycle.supervisor import Child
from driftloop.messages import Event, Label, Message, ModelUpdate
from driftloop.registry import Candidacy, Registry
from driftloop.settings import Settings, environment
from driftloop.topics import Topic
from retrain.candidates.linear import learn
from retrain.window import Window

WORDS = {"negative": ("awful", "late", "lost", "broken"), "positive": ("great", "thanks", "lovely", "best")}

LINEAGE = {"candidate": "linear", "dataset_revision": "", "topic": "", "first_offset": "-1", "last_offset": "-1"}
"""What stands on a version that no topic's messages went into."""


def text_and_label(i: int) -> tuple[str, str]:
    """The i-th made-up text and its label."""
    rng = random.Random(i)
    label = rng.choice(sorted(WORDS))
    return f"{rng.choice(WORDS[label])} {rng.choice(WORDS[label])} flight number {i}", label


def event(i: int) -> Event:
    return Event(event_id=f"e{i}", text=text_and_label(i)[0], segment="made-up", occurred_at=1000.0 + i, position=i)


def label(i: int) -> Label:
    return Label(event_id=f"e{i}", label=text_and_label(i)[1], labelled_at=2000.0 + i, position=i)


@dataclass
class World:
    """One stream: what is put in, what comes out, and the processes between."""

    settings: Settings
    folder: Path
    children: list[Child] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.settings)

    def send(self, events: range = range(0), labels: range = range(0)) -> None:
        for i in events:
            self.outbox.put("events", f"e{i}", event(i))
        for i in labels:
            self.outbox.put("labels", f"e{i}", label(i))
        self.outbox.flush()

    def start(self, verb: str, *, restart: bool = True, **environ: str) -> Child:
        module = {
            "score": "stream_processors.scorer",
            "monitor": "stream_processors.monitor",
            "retrain": "retrain.worker",
        }[verb]
        child = Child(
            verb,
            [sys.executable, "-c", f"from driftloop.settings import load; from {module} import run; run(load())"],
            env=environment(self.settings) | environ,
            log=self.folder / f"{verb}.log",
            restart=restart,
        )
        child.start()
        self.children.append(child)
        return child

    def read(self, topic: Topic) -> list[Message]:
        return kafka.read_all(self.settings, topics.name(self.settings, topic), topic.message)

    def count(self, topic: Topic) -> int:
        full = topics.name(self.settings, topic)
        return kafka.end_offsets(self.settings, [full])[full]

    def until(self, true: Callable[[], bool], seconds: float = 60) -> None:
        """Wait for a condition; the processes' last words are in the failure."""
        deadline = time.monotonic() + seconds
        while not true():
            for child in self.children:
                child.poll()
            words = "\n".join(f"{child.name}: {child.last_words()}" for child in self.children)
            assert time.monotonic() < deadline, f"it did not happen within {seconds} s\n{words}"
            time.sleep(0.1)

    def promote(
        self,
        flipped: bool = False,
        tampered: bool = False,
        announce: bool = True,
        rows: int = 80,
        trigger: str = "",
    ) -> str:
        """Train, register and announce a champion; a flipped one says the opposite of the truth."""
        encoder = exported_encoder(self.settings.model)
        pairs = [text_and_label(10_000 + i) for i in range(rows)]
        other = {"negative": "positive", "positive": "negative"}
        texts = tuple(text for text, _ in pairs)
        window = Window(
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
            lineage=Lineage(candidate="linear"),
            key="a stranger's key" if tampered else self.settings.signing_key,
        )
        registry = Registry(self.settings)
        version = registry.register(Candidacy("linear", bundle, {}, {}, LINEAGE | {"trigger": trigger}))
        registry.promote(version)
        registry.mark(version, "promoted", "test")
        if not announce:
            return version
        update = ModelUpdate(
            stream=self.settings.stream,
            version=version,
            digest=manifest_digest(bundle),
            action="promote",
            reason="test",
            published_at=time.time(),
        )
        self.outbox.put("model-updates", self.settings.stream, update)
        self.outbox.flush()
        return version


@pytest.fixture
def world(settings: Settings, tmp_path: Path) -> Iterator[World]:
    """A world without processes; those it starts are stopped at the end."""
    made = World(settings, tmp_path)
    yield made
    for child in made.children:
        child.stop()
    made.outbox.close()
