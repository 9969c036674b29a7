"""Scaling benchmark: several scorers on one topic, their speed-up and shares, and a change of their number.

Every event takes each scorer a minimum time (`DRIFTLOOP_SCORER__MIN_MS_PER_EVENT`), as if its model had an accelerator.
So the sharing is measured, and not the number of scorers that the cores can carry.

    driftloop bench scaling --workers 1,2,4,8 --seconds 15
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness.cli import save_json
from benchmarks.harness.process_sampler import cpu_seconds
from benchmarks.harness.train_champion import promote
from driftloop.core import topics
from driftloop.core.kafka import clients
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import Event, Prediction
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import Settings
from driftloop.core.settings_source import environment
from driftloop.devstack.ports import free_port
from driftloop.devstack.stack import EmbeddedStack

PATIENCE = 300.0
"""Seconds after which waiting for a condition fails."""


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Throughput of a number of scorers at full load."""

    scorers: int
    events_per_second: float
    speed_up: float
    """Throughput relative to the first number of scorers."""
    shares: list[float]
    """Share of the events of each scorer, largest first."""
    cores: float
    """CPU seconds per second of all scorers together."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Change from one scorer to three and back to one, under a steady load."""

    how: str
    """End of two of the three: told to stop, or killed."""
    events: int
    lost: int
    """Events without a prediction."""
    doubled: int
    """Prediction messages in excess of one for each event."""
    longest_pause: float
    """Maximum time between two predictions in seconds."""


def main() -> int:
    """Print two tables, and write their rows as JSON."""
    parser = argparse.ArgumentParser(
        prog="driftloop bench scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", default="1,2,4,8", metavar="N,…", help="numbers of scorers (default: 1,2,4,8)")
    parser.add_argument("--floor", type=float, default=5.0, help="minimum milliseconds of an event (default: 5)")
    parser.add_argument("--partitions", type=int, default=24, help="partitions of each topic (default: 24)")
    parser.add_argument("--seconds", type=float, default=15.0, help="of full load for each number (default: 15)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows as JSON")
    options = parser.parse_args()
    speeds: list[Speed] = []
    with tempfile.TemporaryDirectory(prefix="driftloop-bench-") as folder, EmbeddedStack(Path(folder)) as stack:
        settings = replace(stack.settings(Settings()), partitions=options.partitions)
        settings = replace(settings, scorer=replace(settings.scorer, min_ms_per_event=options.floor, threads=1))
        topics.create(settings)
        promote(settings, Path(folder))
        bench = Bench(settings, Path(folder))
        for number in map(int, options.workers.split(",")):
            speeds.append(bench.at_full_load(number, options.seconds, speeds[0] if speeds else None))
            print(f"{number} scorers: {speeds[-1].events_per_second:.0f} events/s", file=sys.stderr)
        changes = [bench.change("told to stop"), bench.change("killed")]
    print(f"{'scorers':>7} {'events/s':>9} {'speed-up':>9} {'cores':>6}  shares")
    for row in speeds:
        shares = " ".join(f"{share:.2f}" for share in row.shares)
        print(f"{row.scorers:>7} {row.events_per_second:>9.1f} {row.speed_up:>9.2f} {row.cores:>6.2f}  {shares}")
    print(f"\n{'1 → 3 → 1, two are':<20} {'events':>7} {'lost':>5} {'doubled':>8} {'longest pause, s':>17}")
    for change in changes:
        print(f"{change.how:<20} {change.events:>7} {change.lost:>5} {change.doubled:>8} {change.longest_pause:>17.1f}")
    save_json(options.out, {"speeds": speeds, "changes": changes})
    return 0


@dataclass
class Scorer:
    """A scorer process."""

    child: ManagedProcess
    port: int
    """Port of its metrics."""

    def metric(self, name: str) -> float:
        """Return the value of a metric, 0 while the process does not respond."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as response:
                families = list(text_string_to_metric_families(response.read().decode()))
        except OSError:
            return 0.0
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)


class Bench:
    """Sends events, starts and ends scorers, and counts predictions.

    Args:
        settings: A stream with a champion.
        folder: Folder for the logs.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._outbox = ConfirmedProducer(settings)
        self._sent = 0
        self._started = 0

    def at_full_load(self, number: int, seconds: float, one: Speed | None) -> Speed:
        """Measure scorers on as many events as keep them busy for some time.

        Args:
            number: Number of scorers.
            seconds: Time that the events should take.
            one: Result that the speed-up is relative to. None for the first one.
        """
        with self._scorers(number) as scorers:
            self._settle(scorers)
            self._send(self._settings.partitions * 4)  # the first batch of each loads the model
            self._until(lambda: self._predictions() >= self._sent, "the predictions")
            before = [scorer.metric("driftloop_records_total") for scorer in scorers]
            pids = [scorer.child.pid for scorer in scorers if scorer.child.pid]
            cpu, began = sum(map(cpu_seconds, pids)), time.perf_counter()
            events = int(number * seconds * 1000 / self._settings.scorer.min_ms_per_event)
            self._send(events)
            self._until(lambda: self._predictions() >= self._sent, "the predictions")
            took = time.perf_counter() - began
            cores = (sum(map(cpu_seconds, pids)) - cpu) / took
            counts = [s.metric("driftloop_records_total") - b for s, b in zip(scorers, before, strict=True)]
        speed = events / took
        return Speed(
            scorers=number,
            events_per_second=round(speed, 1),
            speed_up=round(speed / one.events_per_second, 3) if one else 1.0,
            shares=sorted((round(count / sum(counts), 3) for count in counts), reverse=True),
            cores=round(cores, 2),
        )

    def change(self, how: str, rate: float = 120.0, seconds: float = 15.0) -> Change:
        """Run one scorer, then three, then one, under a steady load.

        Args:
            how: End of two of the three: `told to stop` or `killed`.
            rate: Events per second.
            seconds: Duration of each stage.
        """
        first = self._sent
        stop = threading.Event()

        def load() -> None:
            while not stop.wait(0.1):
                self._send(round(rate / 10))

        sender = threading.Thread(target=load)
        with self._scorers(1) as one:
            self._settle(one)
            sender.start()
            time.sleep(seconds)
            with self._scorers(2) as two:
                self._settle([*one, *two])
                time.sleep(seconds)
                for scorer in two:
                    scorer.child.kill() if how == "killed" else scorer.child.stop()
            time.sleep(seconds)
            stop.set()
            sender.join()
            wanted = {f"e{number}" for number in range(first, self._sent)}
            self._until(lambda: not wanted - {p.event_id for p in self._read()}, "the predictions", must=False)
        return self._change(how, wanted)

    def _change(self, how: str, wanted: set[str]) -> Change:
        predictions = [p for p in self._read() if p.event_id in wanted]
        counts = Counter(p.event_id for p in predictions)
        times = sorted({p.event_id: p.predicted_at for p in predictions}.values())
        return Change(
            how=how,
            events=len(wanted),
            lost=len(wanted - counts.keys()),
            doubled=counts.total() - len(counts),
            longest_pause=round(max((b - a for a, b in pairwise(times)), default=0.0), 2),
        )

    @contextmanager
    def _scorers(self, number: int) -> Iterator[list[Scorer]]:
        with ExitStack() as open_children:
            scorers: list[Scorer] = []
            for _ in range(number):
                self._started += 1
                port = free_port([scorer.port for scorer in scorers])
                environ = {
                    **environment(self._settings),
                    "DRIFTLOOP_SCORER__GROUP_INSTANCE_ID": f"scorer-{self._started}",
                    "DRIFTLOOP_HEALTH__PORT": str(port),
                }
                argv = [sys.executable, "-P", "-m", "driftloop", "score"]
                log = self._folder / f"score-{self._started}.log"
                child = open_children.enter_context(ManagedProcess("score", argv, env=environ, log=log))
                scorers.append(Scorer(child, port))
            yield scorers

    def _settle(self, scorers: Sequence[Scorer]) -> None:
        """Wait until every scorer has partitions, and all partitions are assigned."""
        partitions = self._settings.partitions

        def shared() -> bool:
            held = [scorer.metric("driftloop_partitions") for scorer in scorers]
            return all(held) and sum(held) == partitions

        self._until(shared, "the partitions")

    @staticmethod
    def _until(true: Callable[[], bool], what: str, must: bool = True) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true() and (must or time.monotonic() < deadline):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not come within {PATIENCE:.0f} s")
            time.sleep(0.2)

    def _send(self, events: int) -> None:
        for _ in range(events):
            text = f"ok {self._sent % 10}"  # short, so that the model costs almost nothing
            event = Event(event_id=f"e{self._sent}", text=text, occurred_at=time.time(), position=self._sent)
            self._outbox.put(topics.EVENTS.name, event.event_id, event)
            self._sent += 1
        self._outbox.flush()

    def _predictions(self) -> int:
        name = topics.name(self._settings, topics.PREDICTIONS)
        return clients.message_counts(self._settings, [name])[name]

    def _read(self) -> list[Prediction]:
        return clients.read_all(self._settings, topics.name(self._settings, topics.PREDICTIONS), Prediction)


if __name__ == "__main__":
    sys.exit(main())
