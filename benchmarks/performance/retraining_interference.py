"""Retraining interference: latency of the scorer during a retraining and before it.

    python -m benchmarks.performance.retraining_interference --rate 40 --rounds 2

Real texts are sent at random times drawn before, with late labels. A latency is the time from when an event was due
until the broker had its prediction. All default candidates take part. The CPU time of the retraining is given as a
number of cores, because the scorer shares them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace

from benchmarks.harness import train_champion
from benchmarks.harness.cli import save_json
from benchmarks.harness.stream_harness import StreamHarness
from driftloop.cli.simulation.processes import WARM
from driftloop.core import topics
from driftloop.core.kafka import clients
from driftloop.core.messages import Command, Event, Label, Retraining, encode
from driftloop.core.processes.resource_usage import Usage
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import Settings
from driftloop.devstack.stack import EmbeddedStack
from producers.scenarios.scenarios import load_scenario

TRAINED_ON = 2000
"""First rows of the stream, which the champion learns from."""
LABEL_DELAY = 40
"""Events between an event and its label."""
PATIENCE = 400.0
"""Seconds after which waiting for a condition fails."""


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies of one phase, in milliseconds."""

    name: str
    events: int
    p50: float
    p95: float
    p99: float
    longest: float
    cores: float
    """CPU seconds per second of the retrainer and its children."""


class Load:
    """Sends events and labels at a steady rate until it is closed.

    Args:
        settings: The stream.
        rate: Events per second.
        scenario: Source of the texts.
    """

    def __init__(self, settings: Settings, rate: float, scenario: str) -> None:
        self._settings = settings
        self._rate = rate
        self._rows = load_scenario(scenario).sequence[TRAINED_ON:]
        self._closed = threading.Event()
        self.due: dict[str, float] = {}
        """Unix time at which each event was due, by its id."""
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        producer = clients.producer(self._settings, linger_ms=0)
        gaps = np.random.default_rng(7)
        events, labels = (topics.name(self._settings, topic) for topic in (topics.EVENTS, topics.LABELS))
        at, number = time.time(), 0
        while not self._closed.is_set():
            at += float(gaps.exponential(1 / self._rate))
            time.sleep(max(0.0, at - time.time()))
            row, event_id = self._rows[number % len(self._rows)], f"e{number}"
            self.due[event_id] = at
            event = Event(event_id=event_id, text=row.text, occurred_at=at, position=number)
            producer.send(events, key=event_id.encode(), value=encode(event))
            if number >= LABEL_DELAY:
                earlier = number - LABEL_DELAY
                true = self._rows[earlier % len(self._rows)].label
                label = Label(event_id=f"e{earlier}", label=true, labelled_at=at, position=earlier)
                producer.send(labels, key=label.event_id.encode(), value=encode(label))
            number += 1
        producer.flush()
        producer.close()

    def close(self) -> None:
        """Stop sending."""
        self._closed.set()
        self._thread.join()


def main() -> int:
    """Print one table, and write its rows as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.performance.retraining_interference", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--rate", type=float, default=40.0, help="events per second (default: 40)")
    parser.add_argument("--rounds", type=int, default=2, help="number of retrainings (default: 2)")
    parser.add_argument("--seconds", type=float, default=45.0, help="time before each retraining (default: 45)")
    parser.add_argument("--scenario", default="tweets-stationary", metavar="NAME", help="source of the texts")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows as JSON")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="driftloop-bench-")))
        settings = stack.enter_context(EmbeddedStack(folder / "stack")).settings(Settings())
        settings = replace(settings, retrain=replace(settings.retrain, policy="never", bootstrap=1))
        harness = StreamHarness(settings, folder)
        stack.callback(harness.close)
        phases = measure(harness, options, stack)
    print(f"{'phase':<12} {'events':>7} {'p50':>7} {'p95':>7} {'p99':>7} {'max':>8}  cores of the retrainer")
    for row in phases:
        figures = f"{row.p50:>7.0f} {row.p95:>7.0f} {row.p99:>7.0f} {row.longest:>8.0f}"
        print(f"{row.name:<12} {row.events:>7} {figures}  {row.cores:.2f}")
    before, during = (np.median([row.p99 for row in phases if row.name.startswith(w)]) for w in ("before", "during"))
    print(f"p99 during / before: {during / before:.2f}")
    save_json(options.out, phases)
    return 0


def measure(harness: StreamHarness, options: argparse.Namespace, stack: ExitStack) -> list[Phase]:
    """Measure phases without and with a retraining, in turn.

    Args:
        harness: A stream without topics.
        options: Options of the command.
        stack: Ends the load.
    """
    settings = harness.settings
    topics.create(settings)
    train_champion.announce(settings, train_champion.fit(settings, harness.folder, options.scenario, TRAINED_ON, False))
    roles = ("score", "monitor", "retrain")
    children = {role: harness.start(role, warm=WARM.get(role, ()), HF_HUB_OFFLINE="1") for role in roles}
    load = Load(settings, options.rate, options.scenario)
    stack.callback(load.close)
    harness.until(lambda: harness.count(topics.OUTCOMES) > 0, PATIENCE)
    time.sleep(5)
    spans: list[tuple[str, float, float, float]] = []
    for number in range(1, options.rounds + 1):
        spans.append(_span(f"before {number}", children["retrain"], lambda: time.sleep(options.seconds)))
        spans.append(_span(f"during {number}", children["retrain"], lambda: _retrain(harness)))
    time.sleep(2)
    load.close()
    predicted = _predicted_at(settings)
    return [_phase(load.due, predicted, *span) for span in spans]


def _retrain(harness: StreamHarness) -> None:
    """Request a retraining, and wait for its end."""
    run_id = uuid.uuid4().hex
    stream = harness.settings.stream
    command = Command(command_id=run_id, stream=stream, action="retrain", by="benchmark", at=time.time())
    harness.outbox.put(topics.COMMANDS.name, stream, command)
    harness.outbox.flush()

    def finished() -> bool:
        runs = clients.read_all(harness.settings, topics.name(harness.settings, topics.RETRAINING), Retraining)
        return any(one.run_id == run_id and one.is_final for one in runs)

    harness.until(finished, PATIENCE)


def _span(name: str, child: ManagedProcess, work: Callable[[], None]) -> tuple[str, float, float, float]:
    """Do some work. Return its name, begin and end, and the cores that the retrainer used."""
    usage = Usage()

    def cpu() -> float:
        usage.measure({"retrain": child.pid or 0})
        return usage.cpu_seconds("rest")["retrain"]

    before, began = cpu(), time.time()
    work()
    ended = time.time()
    return name, began, ended, (cpu() - before) / (ended - began)


def _predicted_at(settings: Settings) -> dict[str, float]:
    """Return the Unix time at which the broker had the prediction of each event, by its id."""
    found: dict[str, float] = {}
    for part in clients.records(settings, topics.name(settings, topics.PREDICTIONS)):
        for record in part:
            found.setdefault(record.key.decode(), record.timestamp / 1000)
    return found


def _phase(
    due: dict[str, float], predicted: dict[str, float], name: str, began: float, ended: float, cores: float
) -> Phase:
    late: Sequence[float] = [1000 * (predicted[one] - at) for one, at in due.items() if began <= at < ended]
    p50, p95, p99 = np.percentile(late, [50, 95, 99])
    return Phase(
        name=name,
        events=len(late),
        p50=round(float(p50), 1),
        p95=round(float(p95), 1),
        p99=round(float(p99), 1),
        longest=round(max(late), 1),
        cores=round(cores, 2),
    )


if __name__ == "__main__":
    sys.exit(main())
