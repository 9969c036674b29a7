"""The scorer through Kafka beside the bare scoring loop of the same bundle, in alternating rounds of one run.

A round sends a burst of tweets and waits for the last prediction; then the bare loop scores the same texts in batches
of the same size, while the scorer waits. Absolute speeds depend on the machine, their ratio hardly does.

    python -m benchmarks.throughput --events 3000 --rounds 5
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import msgspec
import psutil

from benchmarks.results import save
from driftloop import kafka, topics
from driftloop.classifiers.bundle import BundleClassifier, Lineage, load_bundle
from driftloop.classifiers.onnx import exported_encoder
from driftloop.kafka import Outbox
from driftloop.lifecycle.embedded.stack import EmbeddedStack
from driftloop.lifecycle.supervisor import Child
from driftloop.messages import Event
from driftloop.settings import Settings, environment
from producers.scenarios import load_scenario
from retrain.candidates.base import Budget, Task
from retrain.candidates.linear import LinearHead
from retrain.promotion import Promotions
from retrain.window import Window

TRAINED_ON = 500
PATIENCE = 600.0
"""Seconds after which a burst counts as lost."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table: events per second over the rounds, and CPU seconds per 1,000 events."""

    way: str
    median: float
    lowest: float
    highest: float
    cpu_seconds: float


def main() -> int:
    """Print one table, and write the rows as JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks.throughput", description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, default=3000, help="events in a burst")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    options = parser.parse_args()
    texts = [row.text for row in load_scenario("tweets-stationary").sequence]
    texts = (texts * (options.events * options.rounds // len(texts) + 1))[: options.events * options.rounds]
    with tempfile.TemporaryDirectory(prefix="driftloop-bench-") as folder, EmbeddedStack(Path(folder)) as stack:
        rows = measure(stack.settings(Settings()), Path(folder), texts, options.events)
    print(f"{'way':<28} {'events/s':>9} {'lowest':>8} {'highest':>8} {'cpu s per 1,000':>16}")
    for row in rows:
        print(f"{row.way:<28} {row.median:>9.1f} {row.lowest:>8.1f} {row.highest:>8.1f} {row.cpu_seconds:>16.2f}")
    print(f"through Kafka / bare loop    {rows[0].median / rows[1].median:>9.3f}")
    save(options.out, rows)
    return 0


def measure(settings: Settings, folder: Path, texts: Sequence[str], burst: int) -> list[Row]:
    """Both ways over all texts, a burst each in turn; the first burst warms up and is not counted."""
    topics.create(settings)
    model = promote(settings, folder)
    live: list[tuple[float, float]] = []
    bare: list[tuple[float, float]] = []
    with _scorer(settings, folder) as process:
        outbox = Outbox(settings)
        done = _burst(settings, outbox, texts[:burst], 0)
        for start in range(0, len(texts), burst):
            part = texts[start : start + burst]
            cpu, began = _cpu(process), time.perf_counter()
            done = _burst(settings, outbox, part, done)
            live.append((len(part) / (time.perf_counter() - began), (_cpu(process) - cpu) / len(part)))
            cpu, began = _cpu(psutil.Process()), time.perf_counter()
            for at in range(0, len(part), settings.scorer.batch):
                model.predict(part[at : at + settings.scorer.batch])
            bare.append((len(part) / (time.perf_counter() - began), (_cpu(psutil.Process()) - cpu) / len(part)))
        outbox.close()
    return [_row("scorer through Kafka", live), _row("bare loop, same bundle", bare)]


def _row(way: str, rounds: Sequence[tuple[float, float]]) -> Row:
    speeds = [speed for speed, _ in rounds]
    cpu = 1000 * median(seconds for _, seconds in rounds)
    return Row(way=way, median=median(speeds), lowest=min(speeds), highest=max(speeds), cpu_seconds=cpu)


def promote(settings: Settings, folder: Path) -> BundleClassifier:
    """Train a champion as the loop's first model is trained, announce it, and load it."""
    rows = load_scenario("tweets-stationary").sequence[:TRAINED_ON]
    encoder = exported_encoder(settings.model)
    texts = tuple(row.text for row in rows)
    window = Window(
        event_ids=texts,
        texts=texts,
        labels=tuple(row.label for row in rows),
        embeddings=encoder.embed(texts),
        encoder=encoder.folder,
        onset=0,
    )
    bundle = folder / "bundle"
    task = Task(Budget(60.0), settings.model, Lineage(candidate="linear"), settings.signing_key, folder / "scratch")
    LinearHead().fit(window, task, bundle)
    outbox = Outbox(settings)
    promotions = Promotions(settings, outbox)
    version = promotions.register("linear", bundle, task.lineage, {}, {"reason": "benchmark"})
    promotions.promote(version, "benchmark", "benchmark")
    outbox.close()
    return load_bundle(bundle, settings.signing_key, version=version)


@contextmanager
def _scorer(settings: Settings, folder: Path) -> Iterator[psutil.Process]:
    argv = [sys.executable, "-P", "-m", "driftloop", "score"]
    with Child("score", argv, env=environment(settings), log=folder / "score.log") as child:
        yield psutil.Process(child.pid)


def _burst(settings: Settings, outbox: Outbox, texts: Sequence[str], before: int) -> int:
    """Send the texts and wait for as many predictions; the predictions in all."""
    for number, text in enumerate(texts, before):
        event = Event(event_id=f"e{number}", text=text, occurred_at=time.time(), position=number)
        outbox.put(topics.EVENTS.name, event.event_id, event)
    outbox.flush()
    name, wanted, deadline = topics.name(settings, topics.PREDICTIONS), before + len(texts), time.monotonic() + PATIENCE
    with kafka.reading(settings, name) as client:
        partitions = list(client.assignment())
        while sum(client.end_offsets(partitions).values()) < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{wanted} predictions did not come within {PATIENCE:.0f} s")
            time.sleep(0.02)
    return wanted


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    sys.exit(main())
