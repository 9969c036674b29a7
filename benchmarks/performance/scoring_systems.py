"""Scoring systems of the throughput benchmark: processes on their own topics, and the load they receive."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
import psutil
from msgspec.structs import replace

from benchmarks.harness import train_champion
from benchmarks.harness.process_sampler import cpu_seconds
from benchmarks.performance.model_servers import mlflow_server
from driftloop.core import topics
from driftloop.core.kafka import clients
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import Event, Label, encode
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import Settings
from driftloop.core.settings_source import environment
from driftloop.core.topics import Topic
from producers.scenarios.scenarios import Row

PATIENCE = 300.0
"""Seconds after which waiting for predictions fails."""
LABEL_DELAY = 200
"""Events between an event and its label."""
COUNTED_FROM = 0.1
"""Part of a burst after which its time is taken. By then everything has been sent."""
FIRST_BURST = 64
"""Events of the first burst, when the speed is unknown."""
PEERS_PYTHON = Path(".peers/bin/python")
"""Interpreter of the peers' environment, which `make bench` creates."""


@dataclass
class System:
    """A running scoring system, or a monitor."""

    name: str
    settings: Settings
    """Settings of the stream that it reads and writes."""
    process: psutil.Process
    first: float
    """Seconds from its start to the first prediction."""
    predicted: Callable[[], int]
    """Returns the number of its predictions."""
    sent: int = 1
    """Number of events sent to it."""
    server: psutil.Process | None = None
    """Model server that it calls."""
    rounds: list[tuple[float, float]] = field(default_factory=list)
    """Events per second and CPU seconds per event."""

    @property
    def speed(self) -> float:
        """Median events per second."""
        return median(speed for speed, _ in self.rounds)

    def cpu(self) -> float:
        """Return the CPU seconds used so far."""
        return sum(cpu_seconds(one.pid) for one in self._processes)

    def memory(self) -> float:
        """Return the resident memory in MiB."""
        found = [one for own in self._processes for one in (own, *own.children(recursive=True))]
        return float(sum(one.memory_info().rss for one in found) / 2**20)

    @property
    def _processes(self) -> list[psutil.Process]:
        return [one for one in (self.process, self.server) if one is not None]


class Bench:
    """Starts systems, sends events and labels, and measures the predictions.

    Args:
        settings: A started stack.
        folder: Folder with the bundles, for logs too.
        rows: Texts and true labels to send, again from the first after the last.
        stack: Ends the processes that are started.
    """

    def __init__(self, settings: Settings, folder: Path, rows: Sequence[Row], stack: ExitStack) -> None:
        self._settings = settings
        self._folder = folder
        self.texts = [row.text for row in rows]
        self.truth = [row.label for row in rows]
        self._stack = stack
        self._outbox = ConfirmedProducer(settings)

    def start_scorer(self, name: str, bundle: str) -> System:
        """Start a scorer of driftloop with a champion, and wait for its first prediction.

        Args:
            name: Name of the system.
            bundle: Name of the champion's bundle in the folder.
        """
        settings = self._new_stream(name)
        train_champion.announce(settings, self._folder / bundle)
        return self._start(name, settings, [sys.executable, "-P", "-m", "driftloop", "score"])

    def start_peer(self, name: str, module: str, served: bool = False) -> System:
        """Start a program of another tool, and wait for its first prediction.

        Args:
            name: Name of the system.
            module: Module of the program.
            served: Let it call MLflow's model server in place of a model of its own.
        """
        settings = self._new_stream(name)
        events, predictions = (topics.name(settings, topic) for topic in (topics.EVENTS, topics.PREDICTIONS))
        command = [str(PEERS_PYTHON), "-m", module, "--kafka", settings.kafka, "--events", events]
        command += ["--predictions", predictions, "--bundle", str(self._folder / "linear")]
        return self._start(name, settings, command, served)

    def start_monitor(self, name: str, system: System) -> System:
        """Start a monitor of a system's predictions. Its outcomes count as its predictions.

        Args:
            name: Name of the monitor.
            system: The system.
        """
        command = [sys.executable, "-P", "-m", "driftloop", "monitor"]
        process = self._run(name, system.settings, command)
        counter = self._counter(system.settings, topics.OUTCOMES)
        return System(name, system.settings, process, 0.0, counter, sent=0)

    def burst(self, system: System, seconds: float) -> None:
        """Send a burst of events and record the throughput. The first burst is small.

        Args:
            system: The system.
            seconds: Time that the burst should take it.
        """
        events = max(FIRST_BURST, round(system.speed * seconds)) if system.rounds else FIRST_BURST
        target, share = system.sent + events, COUNTED_FROM if system.rounds else 0.0
        before, cpu, began = system.predicted(), system.cpu(), time.perf_counter()
        self._send(system.settings, [(system.sent + i, time.time()) for i in range(events)])
        system.sent = target
        if share:
            self._until(system, target - round(events * (1 - share)))
            before, cpu, began = system.predicted(), system.cpu(), time.perf_counter()
        self._until(system, target)
        counted = max(1, target - before)
        system.rounds.append((counted / (time.perf_counter() - began), (system.cpu() - cpu) / counted))

    def latencies(self, system: System, share: float, seconds: float) -> tuple[float, float, float]:
        """Measure latencies at a part of the system's capacity.

        Args:
            system: The system.
            share: Part of its median speed.
            seconds: Duration of the load.

        Returns:
            p50, p95 and p99 in milliseconds.
        """
        start, due = system.predicted(), self._send_paced(system, share, seconds)
        self._until(system, system.sent)
        late = []
        predictions = topics.name(system.settings, topics.PREDICTIONS)
        for part in clients.records(system.settings, predictions, {0: start}):
            for record in part:
                with suppress(KeyError):
                    late.append(1000 * (record.timestamp / 1000 - due.pop(record.key.decode())))
        p50, p95, p99 = np.percentile(late, [50, 95, 99])
        return float(p50), float(p95), float(p99)

    def load_with_labels(
        self, system: System, monitor: System, share: float, seconds: float
    ) -> list[tuple[float, float]]:
        """Send events with late labels at a part of the system's capacity.

        Args:
            system: The system.
            monitor: A monitor of its predictions.
            share: Part of its median speed.
            seconds: Duration of the load.

        Returns:
            Events per second and CPU seconds per event, of the system and of the monitor.
        """
        before, began = [(one, one.predicted(), one.cpu()) for one in (system, monitor)], time.perf_counter()
        monitor.sent += len(self._send_paced(system, share, seconds, labels=True))
        for one in (system, monitor):
            self._until(one, one.sent)
        found = [(one.predicted() - done, one.cpu() - cpu) for one, done, cpu in before]
        return [(done / (time.perf_counter() - began), cpu / done) for done, cpu in found]

    def predicted_labels(self, system: System) -> dict[str, str]:
        """Return the first predicted label of each event, by event id."""
        found: dict[str, str] = {}
        for part in clients.records(system.settings, topics.name(system.settings, topics.PREDICTIONS)):
            for record in part:
                found.setdefault(record.key.decode(), msgspec.json.decode(record.value)["label"])
        return found

    def _new_stream(self, name: str) -> Settings:
        prefix = re.sub("[^a-z0-9]+", "-", name) + "."
        settings = replace(self._settings, topic_prefix=prefix, stream=prefix.strip("."))
        topics.create(settings)
        return settings

    def _start(self, name: str, settings: Settings, command: Sequence[str], served: bool = False) -> System:
        """Send one event, start a process, and wait for the prediction."""
        self._send(settings, [(0, time.time())])
        began = time.perf_counter()
        server = None
        if served:
            version = train_champion.announce(settings, self._folder / "linear")
            found = self._stack.enter_context(mlflow_server(settings, self._folder, version))
            command = [*command, "--server", f"http://127.0.0.1:{found.port}{found.path}"]
            server = psutil.Process(found.pid)
        process = self._run(name, settings, command)
        system = System(name, settings, process, 0.0, self._counter(settings, topics.PREDICTIONS), server=server)
        self._until(system, 1)
        system.first = time.perf_counter() - began
        print(f"{name}: first prediction after {system.first:.1f} s", file=sys.stderr)
        return system

    def _run(self, name: str, settings: Settings, command: Sequence[str]) -> psutil.Process:
        env = environment(settings) | {"HF_HUB_OFFLINE": "1"}
        child = ManagedProcess(name, command, env=env, log=self._folder / f"{name}.log")
        return psutil.Process(self._stack.enter_context(child).pid)

    def _counter(self, settings: Settings, topic: Topic) -> Callable[[], int]:
        """Return a function that counts the messages of a topic."""
        client = self._stack.enter_context(clients.assigned_consumer(settings, topics.name(settings, topic)))
        partitions = list(client.assignment())
        return lambda: sum(client.end_offsets(partitions).values())

    def _send_paced(self, system: System, share: float, seconds: float, labels: bool = False) -> dict[str, float]:
        """Send events at random times drawn before, and return the due time of each by its id."""
        rate = share * system.speed
        gaps = np.random.default_rng(7).exponential(1 / rate, size=max(50, round(rate * seconds)))
        begin = time.time() + 0.5
        due = {f"e{system.sent + i}": begin + at for i, at in enumerate(np.cumsum(gaps).tolist())}
        producer = clients.producer(system.settings, linger_ms=0)
        for number, at in enumerate(due.values(), system.sent):
            time.sleep(max(0.0, at - time.time()))
            producer.send(topics.name(system.settings, topics.EVENTS), **self._event(number, at))
            if labels:
                producer.send(topics.name(system.settings, topics.LABELS), **self._label(number - LABEL_DELAY, at))
        producer.flush()
        producer.close()
        system.sent += len(due)
        return due

    def _send(self, settings: Settings, events: Sequence[tuple[int, float]]) -> None:
        for number, at in events:
            message = self._event(number, at)
            self._outbox.put(topics.name(settings, topics.EVENTS), message["key"], message["value"])
        self._outbox.flush()

    def _event(self, number: int, at: float) -> dict[str, bytes]:
        text = self.texts[number % len(self.texts)]
        return _keyed(Event(event_id=f"e{number}", text=text, occurred_at=at, position=number))

    def _label(self, number: int, at: float) -> dict[str, bytes]:
        label = self.truth[number % len(self.truth)]
        return _keyed(Label(event_id=f"e{number}", label=label, labelled_at=at, position=number))

    def _until(self, system: System, predictions: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while system.predicted() < predictions:
            if time.monotonic() > deadline or not system.process.is_running():
                log = (self._folder / f"{system.name}.log").read_text()[-2000:]
                raise TimeoutError(f"{system.name} did not reach {predictions} predictions: {log}")
            time.sleep(0.02)


def _keyed(message: Event | Label) -> dict[str, bytes]:
    return {"key": message.event_id.encode(), "value": encode(message)}
