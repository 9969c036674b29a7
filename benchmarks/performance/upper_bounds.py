"""Upper bounds of throughput: the model without a broker, the tokeniser alone, the broker without a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from driftloop.core import topics
from driftloop.core.kafka import clients
from driftloop.core.models.bundle import load_bundle
from driftloop.core.settings import Settings
from stream_processors.scoring.cascade_router import CascadeRouter


@dataclass
class BareLoop:
    """A loop of work in this process."""

    name: str
    work: Callable[[int], int]
    """Processes the next events, given the number done so far. Returns their number."""
    done: int = 0
    rounds: list[tuple[float, float]] = field(default_factory=list)
    """Events per second and CPU seconds per event."""

    def run(self, seconds: float) -> None:
        """Run one round of at least ``seconds``."""
        cpu, began, before = time.process_time(), time.perf_counter(), self.done
        while time.perf_counter() - began < seconds:
            self.done += self.work(self.done)
        events = self.done - before
        self.rounds.append((events / (time.perf_counter() - began), (time.process_time() - cpu) / events))


def upper_bounds(settings: Settings, folder: Path, texts: Sequence[str]) -> list[BareLoop]:
    """Return the loops of the bundles in a folder, of the tokeniser, and of the broker.

    Args:
        settings: Broker, batch size and signing key.
        folder: Folder with the bundles `linear` and, optionally, `cascade`.
        texts: Texts to predict.
    """
    size = settings.scorer.batch
    names = [name for name in ("linear", "cascade") if (folder / name).is_dir()]
    models = {name: load_bundle(folder / name, settings.signing_key) for name in names}
    for model in models.values():
        model.encoder.tune(texts[:64])
    router = CascadeRouter("always")

    def batch(start: int) -> list[str]:
        return [texts[(start + i) % len(texts)] for i in range(size)]

    def encoder(start: int) -> int:
        models["linear"].predict(batch(start))
        return size

    def cascade(start: int) -> int:
        model, ids = models["cascade"], [f"e{start + i}" for i in range(size)]
        router.finish(model, router.begin(model, ids, batch(start), full=True, drifting=False))
        return size

    def tokeniser(start: int) -> int:
        models["linear"].encoder.tokenise(batch(start))
        return size

    first = [BareLoop("bare loop, cascade", cascade)] if "cascade" in models else []
    return [
        *first,
        BareLoop("bare loop, encoder", encoder),
        BareLoop("tokeniser", tokeniser),
        BareLoop("broker, round trip", BrokerRoundTrip(settings).work),
    ]


class BrokerRoundTrip:
    """Copies messages from one topic to another with kafka-python, in batches."""

    def __init__(self, settings: Settings) -> None:
        self._settings = replace(settings, topic_prefix="passing.", stream="passing")
        self._made = False

    def work(self, done: int) -> int:
        """Copy at most 500 events and return their number."""
        if not self._made:
            topics.create(self._settings)
            self._in, self._out = (topics.name(self._settings, topic) for topic in (topics.EVENTS, topics.PREDICTIONS))
            self._outbox = clients.producer(self._settings)
            for number in range(100_000):
                self._outbox.send(self._in, value=b"x" * 200, key=str(number).encode())
            self._outbox.flush()
            self._client = clients.consumer(self._settings, group_id="passing", max_poll_records=500)
            self._client.subscribe([self._in])
            self._made = True
        found = [one for part in self._client.poll(timeout_ms=1000).values() for one in part]
        if not found:
            self._client.seek_to_beginning()
        for one in found:
            self._outbox.send(self._out, value=one.value, key=one.key)
        self._outbox.flush()
        self._client.commit()
        return len(found)
