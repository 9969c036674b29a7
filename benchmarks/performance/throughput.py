"""The scorer beside what people would write with other tools: the same broker, texts and encoder, in turn, in one run.

Every way to score runs as a process of its own, all the time, on topics of its own; in each round every one of them is
given a burst that takes it some seconds. Then each has a load of half and of nine tenths of what it was seen to carry,
sent at times that were drawn before (an open loop, so that a slow answer does not delay the next question); a latency
counts from the time that the event was due. Beside them stand what nothing can be faster than, and what the monitor
takes where every event is labelled.

    python -m benchmarks.performance.throughput --rounds 3 --seconds 8
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import psutil
from msgspec.structs import replace
from sklearn.metrics import f1_score

from benchmarks.harness import train_champion
from benchmarks.harness.cli import save_json
from benchmarks.harness.process_sampler import cpu_seconds
from benchmarks.performance.api_latency import mlflow_server
from benchmarks.performance.upper_bounds import limits
from driftloop.core import topics
from driftloop.core.kafka import clients
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import Event, Label, encode
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import Settings, environment
from driftloop.core.topics import Topic
from driftloop.devstack.stack import EmbeddedStack
from producers.scenarios import scenarios
from retrain.candidates import catalogue

TRAINED_ON = 4000
"""Rows of the stream that the models learn from; what comes after them is sent."""
HELD_OUT = 2000
"""Rows after those on which macro-F1 is measured."""
PATIENCE = 300.0
"""Seconds after which something that was to happen is given up."""
BEHIND = 200
"""Events between one and its label."""
COUNTED_FROM = 0.1
"""Part of a burst after which its time is taken: by then everything has been sent."""
PYTHON = Path(".peers/bin/python")
"""The environment of the peers; `make bench` makes it."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table; medians over the rounds, and what was lowest and highest. None where it does not apply."""

    way: str
    per_second: float
    lowest: float
    highest: float
    cpu_seconds: float
    """For 1,000 events, of the process and its children; the broker's and the store's are left out."""
    latencies: dict[str, tuple[float, float, float]] = {}
    """By part of the capacity, p50, p95 and p99 in milliseconds."""
    macro_f1: float | None = None
    memory: float | None = None
    """Resident, in MiB."""
    first: float | None = None
    """Seconds from the start of the process to the first prediction, with an event waiting."""


@dataclass
class System:
    """A way to score, as it runs."""

    name: str
    settings: Settings
    """Of the stream that it reads and writes."""
    process: psutil.Process
    first: float
    predicted: Callable[[], int]
    sent: int = 1
    server: psutil.Process | None = None
    """A model server that it asks."""
    rounds: list[tuple[float, float]] = field(default_factory=list)
    """Events per second and CPU seconds per event."""

    @property
    def speed(self) -> float:
        """Median events per second."""
        return median(speed for speed, _ in self.rounds)

    def cpu(self) -> float:
        """CPU seconds so far."""
        return sum(cpu_seconds(one.pid) for one in self._processes)

    def memory(self) -> float:
        """Resident MiB."""
        found = [one for own in self._processes for one in (own, *own.children(recursive=True))]
        return float(sum(one.memory_info().rss for one in found) / 2**20)

    @property
    def _processes(self) -> list[psutil.Process]:
        return [one for one in (self.process, self.server) if one is not None]


class Bench:
    """Starts the ways, sends, and looks at what comes."""

    def __init__(self, settings: Settings, folder: Path, rows: Sequence[scenarios.Row], stack: ExitStack) -> None:
        self._settings = settings
        self._folder = folder
        self.texts = [row.text for row in rows]
        self.truth = [row.label for row in rows]
        self._stack = stack
        self._outbox = ConfirmedProducer(settings)

    def start(self, name: str, command: Sequence[str], **changes: str) -> System:
        """A process of driftloop (a verb) or a peer (a module and what it is to be told), on topics of its own."""
        prefix = re.sub("[^a-z0-9]+", "-", name) + "."
        settings = replace(self._settings, topic_prefix=prefix, stream=prefix.strip("."))
        topics.create(settings)
        if command[0] == "score":
            train_champion.announce(settings, self._folder / changes.pop("bundle"))
        self._send(settings, [(0, time.time())])
        began = time.perf_counter()
        server = None
        if name == SERVED:
            version = train_champion.announce(settings, self._folder / "linear")
            served = self._stack.enter_context(mlflow_server(settings, self._folder, version))
            command = [*command, "--server", f"http://127.0.0.1:{served.port}{served.path}"]
            server = psutil.Process(served.pid)
        process = psutil.Process(self._run(name, settings, command, changes))
        way = System(name, settings, process, 0.0, self._counting(settings, topics.PREDICTIONS), server=server)
        self._until(way, 1)
        way.first = time.perf_counter() - began
        print(f"{name}: first prediction after {way.first:.1f} s", file=sys.stderr)
        return way

    def watch(self, way: System) -> System:
        """A monitor of what a way predicts; its outcomes are counted."""
        process = psutil.Process(self._run(MONITOR, way.settings, ["monitor"], {}))
        return System(MONITOR, way.settings, process, 0.0, self._counting(way.settings, topics.OUTCOMES), sent=0)

    def _counting(self, settings: Settings, topic: Topic) -> Callable[[], int]:
        client = self._stack.enter_context(clients.assigned_consumer(settings, topics.name(settings, topic)))
        partitions = list(client.assignment())
        return lambda: sum(client.end_offsets(partitions).values())

    def _run(self, name: str, settings: Settings, command: Sequence[str], changes: dict[str, str]) -> int | None:
        """The id of the process of a way, which is started."""
        if command[0] in ("score", "monitor"):
            line = [sys.executable, "-P", "-m", "driftloop", *command]
        else:
            events, out = (topics.name(settings, topic) for topic in (topics.EVENTS, topics.PREDICTIONS))
            told = ["--kafka", settings.kafka, "--events", events, "--predictions", out]
            bundle = ["--bundle", str(self._folder / "linear")]
            line = [str(PYTHON), "-m", *command, *told, *bundle]
        env = environment(settings) | changes | {"HF_HUB_OFFLINE": "1"}
        return self._stack.enter_context(ManagedProcess(name, line, env=env, log=self._folder / f"{name}.log")).pid

    def burst(self, way: System, seconds: float) -> None:
        """Send what takes it about so many seconds, and note how fast it was; the first burst is a small one."""
        events = max(64, round(way.speed * seconds)) if way.rounds else 64
        target, share = way.sent + events, COUNTED_FROM if way.rounds else 0.0
        before, cpu, began = way.predicted(), way.cpu(), time.perf_counter()
        self._send(way.settings, [(way.sent + i, time.time()) for i in range(events)])
        way.sent = target
        if share:
            self._until(way, target - round(events * (1 - share)))
            before, cpu, began = way.predicted(), way.cpu(), time.perf_counter()
        self._until(way, target)
        counted = max(1, target - before)
        way.rounds.append((counted / (time.perf_counter() - began), (way.cpu() - cpu) / counted))

    def load(self, way: System, share: float, seconds: float) -> tuple[float, float, float]:
        """p50, p95 and p99 in milliseconds at a part of its capacity."""
        start, due = way.predicted(), self._pace(way, share, seconds)
        self._until(way, way.sent)
        late = []
        out = topics.name(way.settings, topics.PREDICTIONS)
        for part in clients.records(way.settings, out, {0: start}):
            for record in part:
                with suppress(KeyError):
                    late.append(1000 * (record.timestamp / 1000 - due.pop(record.key.decode())))
        p50, p95, p99 = np.percentile(late, [50, 95, 99])
        return float(p50), float(p95), float(p99)

    def labelled(self, way: System, monitor: System, share: float, seconds: float) -> list[tuple[float, float]]:
        """As `load`, with a label for each event a little later; per second and CPU seconds an event of both."""
        before, began = [(one, one.predicted(), one.cpu()) for one in (way, monitor)], time.perf_counter()
        monitor.sent += len(self._pace(way, share, seconds, labels=True))
        for one in (way, monitor):
            self._until(one, one.sent)
        found = [(one.predicted() - done, one.cpu() - cpu) for one, done, cpu in before]
        return [(done / (time.perf_counter() - began), cpu / done) for done, cpu in found]

    def _pace(self, way: System, share: float, seconds: float, labels: bool = False) -> dict[str, float]:
        """Send events at drawn times; when each was due, by its id."""
        rate = share * way.speed
        gaps = np.random.default_rng(7).exponential(1 / rate, size=max(50, round(rate * seconds)))
        begin = time.time() + 0.5
        due = {f"e{way.sent + i}": begin + at for i, at in enumerate(np.cumsum(gaps).tolist())}
        producer = clients.producer(way.settings, linger_ms=0)
        for number, at in enumerate(due.values(), way.sent):
            time.sleep(max(0.0, at - time.time()))
            producer.send(topics.name(way.settings, topics.EVENTS), **self._message(number, at))
            if labels:
                producer.send(topics.name(way.settings, topics.LABELS), **self._label(number - BEHIND, at))
        producer.flush()
        producer.close()
        way.sent += len(due)
        return due

    def labels(self, way: System) -> dict[str, str]:
        """What it said, by event id."""
        found: dict[str, str] = {}
        for part in clients.records(way.settings, topics.name(way.settings, topics.PREDICTIONS)):
            for record in part:
                found.setdefault(record.key.decode(), msgspec.json.decode(record.value)["label"])
        return found

    def _message(self, number: int, at: float) -> dict[str, bytes]:
        text = self.texts[number % len(self.texts)]
        return _keyed(Event(event_id=f"e{number}", text=text, occurred_at=at, position=number))

    def _label(self, number: int, at: float) -> dict[str, bytes]:
        label = self.truth[number % len(self.truth)]
        return _keyed(Label(event_id=f"e{number}", label=label, labelled_at=at, position=number))

    def _send(self, settings: Settings, events: Sequence[tuple[int, float]]) -> None:
        for number, at in events:
            message = self._message(number, at)
            self._outbox.put(topics.name(settings, topics.EVENTS), message["key"], message["value"])
        self._outbox.flush()

    def _until(self, way: System, predictions: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while way.predicted() < predictions:
            if time.monotonic() > deadline or not way.process.is_running():
                words = (self._folder / f"{way.name}.log").read_text()[-2000:]
                raise TimeoutError(f"{way.name} did not come to {predictions} predictions: {words}")
            time.sleep(0.02)


def _keyed(message: Event | Label) -> dict[str, bytes]:
    return {"key": message.event_id.encode(), "value": encode(message)}


SERVED = "mlflow's server, by 32"
WATCHED = "driftloop, encoder"
"""The way that is measured with a monitor too."""
MONITOR = "its monitor"
HALF = ", half load"
OURS: dict[str, dict[str, str]] = {
    "driftloop, cascade": {"bundle": "cascade"},
    "driftloop, encoder": {"bundle": "linear"},
    "driftloop, TPOT's head": {"bundle": "tpot"},
    "driftloop, fine-tuned": {"bundle": "finetune"},
}
PEERS: dict[str, list[str]] = {
    "faust agent, per event": ["benchmarks.performance.peers.faust_agent"],
    "quix, per event": ["benchmarks.performance.peers.quix_app"],
    "kafka-python, by 32": ["benchmarks.performance.peers.kafka_python_batches"],
    "bytewax, by 32": ["benchmarks.performance.peers.bytewax_flow"],
    SERVED: ["benchmarks.performance.peers.kafka_python_batches"],
}


def main() -> int:
    """Print one table, and write the rows as JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks.performance.throughput", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of a burst, and of a load")
    parser.add_argument("--scenario", default="tweets-stationary")
    parser.add_argument("--ways", default="", help="part of the names of those to measure, with commas; default: all")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    options = parser.parse_args()
    if not PYTHON.exists():
        print("driftloop: the other tools are not installed: run `make bench`, which does that.", file=sys.stderr)
        return 2
    rows = scenarios.load_scenario(options.scenario).sequence
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="driftloop-bench-")))
        settings = stack.enter_context(EmbeddedStack(folder)).settings(Settings())
        for bundle in {changes["bundle"] for name, changes in OURS.items() if wanted(name, options)} | {"linear"}:
            print(f"making {bundle}", file=sys.stderr)
            candidate = catalogue.find("linear" if bundle == "cascade" else bundle)
            train_champion.fit(settings, folder, options.scenario, TRAINED_ON, bundle == "cascade", candidate)
        bench = Bench(settings, folder, rows[TRAINED_ON:], stack)
        measured = measure(bench, options, folder, settings)
    show(measured)
    save_json(options.out, measured)
    return 0


def wanted(name: str, options: argparse.Namespace) -> bool:
    """Whether a way is to be measured."""
    return any(part in name for part in options.ways.split(","))


def measure(bench: Bench, options: argparse.Namespace, folder: Path, settings: Settings) -> list[Row]:
    """All ways, and the limits, round by round."""
    bare = limits(settings, folder, bench.texts)
    ways = [bench.start(name, ["score"], **changes) for name, changes in OURS.items() if wanted(name, options)]
    ways += [bench.start(name, command) for name, command in PEERS.items() if wanted(name, options)]
    for number in range(options.rounds + 2):
        for way in ways:
            bench.burst(way, options.seconds if number > 1 else 2.0)  # the first two warm up, and say how fast it is
        for one in bare:
            one.run(options.seconds / 2 if number else 0.5)
        print(f"round {number}: " + ", ".join(f"{w.name} {w.rounds[-1][0]:.0f}/s" for w in ways), file=sys.stderr)
    for rounds in [one.rounds for one in ways] + [one.rounds for one in bare]:
        del rounds[:2]
    found = []
    for way in ways:
        late = {f"{share:.0%}": bench.load(way, share, options.seconds) for share in (0.5, 0.9)}
        found.append(_row(way.name, way.rounds, latencies=late, memory=way.memory(), first=way.first))
    scores = quality(bench, ways, folder)
    found = [replace(row, macro_f1=scores.get(row.way)) for row in found]
    found += [row for way in ways if way.name == WATCHED for row in watched(bench, way, options)]
    return found + [_row(one.name, one.rounds) for one in bare]


def watched(bench: Bench, way: System, options: argparse.Namespace) -> list[Row]:
    """A scorer and its monitor at half of the scorer's capacity, with a label for each event."""
    monitor = bench.watch(way)
    rounds = [bench.labelled(way, monitor, 0.5, options.seconds) for _ in range(options.rounds + 1)]
    return [_row(one.name + HALF, found[1:]) for one, *found in zip((way, monitor), *rounds, strict=True)]


def _row(name: str, rounds: Sequence[tuple[float, float]], **rest: Any) -> Row:
    speeds = [speed for speed, _ in rounds]
    cpu = 1000 * median(seconds for _, seconds in rounds)
    return Row(way=name, per_second=median(speeds), lowest=min(speeds), highest=max(speeds), cpu_seconds=cpu, **rest)


def quality(bench: Bench, ways: Sequence[System], folder: Path) -> dict[str, float]:
    """Macro-F1 on the held-out rows by name of each way; the peers, which have one model, have one figure.

    What the peers have predicted themselves must be what their model says: a `RuntimeError` where it is not.
    """
    ids = [f"e{number}" for number in range(HELD_OUT)]
    found: dict[str, float] = {}
    whole: list[str] = []
    for way in ways:
        said = bench.labels(way)
        if way.name in OURS or way.name == SERVED:  # it has the same graph
            found[way.name] = float(f1_score(bench.truth[:HELD_OUT], [said[one] for one in ids], average="macro"))
            continue
        if not whole:
            whole = _full_precision(folder, bench.texts[:HELD_OUT])
        mine = [(said[one], label) for one, label in zip(ids, whole, strict=True) if one in said]
        if sum(one == other for one, other in mine) < 0.995 * len(mine):
            raise RuntimeError(f"{way.name} answers otherwise than its model")
        found[way.name] = float(f1_score(bench.truth[:HELD_OUT], whole, average="macro"))
    return found


def _full_precision(folder: Path, texts: Sequence[str]) -> list[str]:
    from benchmarks.performance.peers.pipeline_model import Labeller

    labeller = Labeller(folder / "linear")
    return [label for start in range(0, len(texts), 32) for label in labeller.label(texts[start : start + 32])]


def show(rows: Sequence[Row]) -> None:
    """The table, and the ratios that people ask for."""
    print(
        f"{'way':<30} {'events/s':>9} {'lowest – highest':>18} {'cpu s/1,000':>12} {'p50/p95/p99 ms at 50%':>24} "
        f"{'at 90%':>24} {'macro-F1':>9} {'MiB':>6} {'first, s':>9}"
    )
    for row in rows:
        late = ["/".join(f"{value:.0f}" for value in row.latencies.get(share, ())) for share in ("50%", "90%")]
        rest = [
            format(row.macro_f1, ".3f") if row.macro_f1 else "",
            format(row.memory or 0, ".0f") if row.memory else "",
        ]
        spread = f"{row.lowest:.0f} – {row.highest:.0f}"
        print(
            f"{row.way:<30} {row.per_second:>9.0f} {spread:>18} {row.cpu_seconds:>12.2f} {late[0]:>24} {late[1]:>24} "
            f"{rest[0]:>9} {rest[1]:>6} {format(row.first, '.1f') if row.first else '':>9}"
        )
    speeds = {row.way: row.per_second for row in rows}
    for ours in OURS:
        for other in (*PEERS, ours.replace("driftloop", "bare loop")):
            if ours in speeds and other in speeds:
                print(f"{ours} / {other}: {speeds[ours] / speeds[other]:.2f}")
    cpu = {row.way: row.cpu_seconds for row in rows}
    if MONITOR + HALF in cpu:
        print(f"CPU of {MONITOR} / {WATCHED}: {cpu[MONITOR + HALF] / cpu[WATCHED + HALF]:.3f}, both at half load")


if __name__ == "__main__":
    sys.exit(main())
