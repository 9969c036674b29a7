"""What an event costs as classes, texts, partitions, the labels' delay and the history grow: each a small plot.

    python -m benchmarks.performance.cost_growth --out runs/growth.json --plot docs/scaling/growth.svg

CPU milliseconds of the process that does the work, for each event of a backlog or of a steady load. Where the model is
not what grows, a stub stands in for it, so that a change of what is around it is not lost in the encoder's cost.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace
from sklearn.linear_model import LogisticRegression

from benchmarks.adaptation.plots import svg
from benchmarks.harness import train_champion
from benchmarks.harness.cli import save_json
from benchmarks.harness.process_sampler import cpu_seconds
from benchmarks.harness.stream_harness import StreamHarness
from driftloop.core import topics
from driftloop.core.messages import Event, Label
from driftloop.core.models.bundle import Lineage, write_bundle
from driftloop.core.models.head import Head
from driftloop.core.models.onnx_export import exported_encoder
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import Settings
from driftloop.core.topics import Topic
from driftloop.devstack.stack import EmbeddedStack
from producers.scenarios.scenarios import load_scenario

CLASSES = (2, 8, 32, 128)
WORDS = (4, 16, 64, 256, 1024)
PARTITIONS = (1, 4, 16, 64)
DELAYS = (0, 1_000, 10_000, 50_000)
"""Events between an event and its label."""
HISTORY = (10_000, 50_000, 100_000, 200_000)
"""Events before those that are measured."""
EVENTS = 6_000
"""That a cost is measured on."""
RATE = 1_000.0
"""Events per second of a steady load."""
PATIENCE = 900.0


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """What an event costs a process at one value of what grows."""

    what: str
    value: int
    role: str
    ms: float
    """CPU milliseconds for an event: the median of three parts of the load."""
    lowest: float
    highest: float


@dataclass
class Growth:
    """Streams of their own on one stack, one for each point."""

    settings: Settings
    folder: Path
    texts: Sequence[str]
    points: list[Point] = field(default_factory=list)

    def classes(self) -> None:
        """A linear head over the encoder's embeddings, and the detectors of as many shares of predicted labels."""
        for number in CLASSES:
            labels = [f"class {row % number}" for row in range(len(self.texts))]
            with self._world(f"classes-{number}") as world:
                self._promote(world, labels[: 10 * number])
                _send(world, range(EVENTS), self.texts)
                self._backlog(world, "classes", number, "score", topics.PREDICTIONS)
                _label(world, range(EVENTS), labels)
                self._backlog(world, "classes", number, "monitor", topics.OUTCOMES)

    def words(self) -> None:
        """Texts of so many words; what is longer than the encoder reads is cut."""
        some = " ".join(self.texts).split()
        order = np.random.default_rng(7)
        for number in WORDS:
            starts = order.integers(0, len(some) - number, size=EVENTS // 3).tolist()
            texts = [" ".join(some[start : start + number]) for start in starts]
            with self._world(f"words-{number}") as world:
                self._promote(world, ["positive", "negative"] * 100)
                _send(world, range(len(texts)), texts)
                self._backlog(world, "words", number, "score", topics.PREDICTIONS, len(texts))

    def partitions(self) -> None:
        """The scorer around a stub."""
        for number in PARTITIONS:
            with self._world(f"partitions-{number}", partitions=number) as world:
                world.promote()
                _send(world, range(3 * EVENTS), self.texts)
                self._backlog(world, "partitions", number, "score", topics.PREDICTIONS, 3 * EVENTS, stub=True)

    def delay(self) -> None:
        """The monitor, at a steady load whose labels come so many events late; the predictions are a stub's."""
        for number in DELAYS:
            with self._world(f"delay-{number}") as world:
                world.promote()
                _start(world, "score", stub=True)
                child = _start(world, "monitor")
                _send(world, range(number), self.texts)
                _marked(world, child, topics.PREDICTIONS, number)
                marks = []
                for part in range(4):  # the first one warms up
                    self._steady(world, number + part * EVENTS // 3, number + (part + 1) * EVENTS // 3, number)
                    marks.append(_marked(world, child, topics.OUTCOMES, (part + 1) * EVENTS // 3))
                self._note("label delay", number, "monitor", marks)

    def history(self) -> None:
        """Both processes, the scorer around a stub, at a steady load after so many events."""
        with self._world("history") as world:
            world.promote()
            scorer, monitor = _start(world, "score", stub=True), _start(world, "monitor")
            sent = 0
            for before in HISTORY:
                marks: list[list[tuple[int, float]]] = []
                for part in range(4):
                    self._steady(world, sent, before + part * EVENTS // 3)
                    sent = before + part * EVENTS // 3
                    marks.append(
                        [
                            _marked(world, scorer, topics.PREDICTIONS, sent),
                            _marked(world, monitor, topics.OUTCOMES, sent),
                        ]
                    )
                for role, own in zip(("score", "monitor"), zip(*marks, strict=True), strict=True):
                    self._note("history", before, role, own)

    def _steady(self, world: StreamHarness, first: int, last: int, delay: int = 0) -> None:
        """Send events at `RATE`, each with the label of the one so many events before it."""
        for begin in range(first, last, 100):
            due = time.monotonic() + 100 / RATE
            numbers = range(begin, min(begin + 100, last))
            _send(world, numbers, self.texts)
            _label(world, range(numbers.start - delay, numbers.stop - delay), ["positive"])
            time.sleep(max(0.0, due - time.monotonic()))

    def _backlog(
        self,
        world: StreamHarness,
        what: str,
        value: int,
        role: str,
        out: Topic,
        events: int = EVENTS,
        stub: bool = False,
    ) -> None:
        """Have a process work off what waits for it."""
        child = _start(world, role, stub)
        marks = [_marked(world, child, out, part * events // 4) for part in range(1, 5)]
        child.stop()
        self._note(what, value, role, marks)

    def _note(self, what: str, value: int, role: str, marks: Sequence[tuple[int, float]]) -> None:
        found = [1000 * (cpu - before) / (n - m) for (m, before), (n, cpu) in pairwise(marks) if n > m]
        role = "scorer" if role == "score" else role
        point = Point(
            what=what, value=value, role=role, ms=round(median(found), 3), lowest=min(found), highest=max(found)
        )
        self.points.append(point)
        print(f"{what} {value:,}: {role} {point.ms:.3f} ms", file=sys.stderr, flush=True)

    def _promote(self, world: StreamHarness, labels: Sequence[str]) -> None:
        """A champion with as many classes as there are different labels."""
        encoder = exported_encoder(world.settings.model)
        texts = list(self.texts[: len(labels)])
        head = Head(LogisticRegression(max_iter=20).fit(encoder.embed(texts), np.asarray(labels)))
        bundle = world.folder / "bundle"
        lineage = Lineage(candidate="linear")
        key = world.settings.signing_key
        write_bundle(bundle, encoder=encoder, head=head, labels=head.classes, lineage=lineage, key=key)
        train_champion.announce(world.settings, bundle)

    @contextmanager
    def _world(self, name: str, **changes: Any) -> Iterator[StreamHarness]:
        settings = replace(self.settings, stream=name, topic_prefix=f"{name}.", **changes)
        topics.create(settings)
        folder = self.folder / name
        folder.mkdir()
        world = StreamHarness(settings, folder)
        try:
            yield world
        finally:
            world.close()


def _start(world: StreamHarness, role: str, stub: bool = False) -> ManagedProcess:
    if stub and role == "score":
        return world.start(role, plan=world.folder / "plan", changes=("stub",))
    return world.start(role)


def _marked(world: StreamHarness, child: ManagedProcess, out: Topic, messages: int) -> tuple[int, float]:
    """When a topic has had so many messages: how many it has had, and the CPU seconds of a process."""
    world.until(lambda: world.count(out) >= messages, PATIENCE)
    return world.count(out), cpu_seconds(child.pid or 0)


def _send(world: StreamHarness, numbers: Sequence[int], texts: Sequence[str]) -> None:
    """Events; the n-th has the n-th of the texts, which are gone through again and again."""
    _put(
        world,
        topics.EVENTS,
        (Event(event_id=f"e{n}", text=texts[n % len(texts)], occurred_at=1000.0 + n, position=n) for n in numbers),
    )


def _label(world: StreamHarness, numbers: Sequence[int], labels: Sequence[str]) -> None:
    """Labels of those events, likewise."""
    _put(
        world,
        topics.LABELS,
        (Label(event_id=f"e{n}", label=labels[n % len(labels)], labelled_at=1000.0 + n, position=n) for n in numbers),
    )


def _put(world: StreamHarness, topic: Topic, bodies: Iterable[Event | Label]) -> None:
    for body in bodies:
        world.outbox.put(topic.name, body.event_id, body)
        if body.position % 1000 == 999:
            world.outbox.flush()
    world.outbox.flush()


def draw(points: Sequence[Point], path: Path) -> None:
    """One small plot for each of what grows, as one SVG file."""
    whats = list(dict.fromkeys(point.what for point in points))
    with svg():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2.4 * len(whats), 2.4), layout="constrained")
        for axes, what in zip(np.atleast_1d(figure.subplots(1, len(whats))), whats, strict=True):
            for role, colour in (("scorer", "#0b6e99"), ("monitor", "#d98324")):
                own = [point for point in points if (point.what, point.role) == (what, role)]
                x, y = [point.value for point in own], [point.ms for point in own]
                if own:
                    axes.plot(x, y, "o-", color=colour, label=role, ms=4)
                    axes.fill_between(x, [p.lowest for p in own], [p.highest for p in own], color=colour, alpha=0.15)
            values = sorted({point.value for point in points if point.what == what})
            axes.set_xscale("symlog", linthresh=min(value for value in values if value))
            axes.set_xticks(values, [f"{x // 1000}k" if x >= 10_000 else f"{x:,}" for x in values])
            axes.minorticks_off()
            axes.set_ylim(bottom=0)
            axes.set_title(what)
            axes.legend(frameon=False)
        figure.supylabel("ms of a core, an event")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


PARTS: dict[str, Callable[[Growth], None]] = {
    "classes": Growth.classes,
    "words": Growth.words,
    "partitions": Growth.partitions,
    "delay": Growth.delay,
    "history": Growth.history,
}


def main() -> int:
    """Print one table, write its rows as JSON, and draw them."""
    parser = argparse.ArgumentParser(prog="benchmarks.performance.cost_growth", description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    parser.add_argument("--plot", type=Path, help="SVG file for the plots")
    options = parser.parse_args()
    texts = [row.text for row in load_scenario("tweets-stationary").sequence]
    with (
        tempfile.TemporaryDirectory(prefix="driftloop-bench-") as folder,
        EmbeddedStack(Path(folder, "stack")) as stack,
    ):
        growth = Growth(stack.settings(Settings(keep_hours=1.0)), Path(folder), texts)
        for part in options.parts:
            PARTS[part](growth)
    print(f"{'what grows':<12} {'to':>8} {'process':<8} {'ms an event':>12}  lowest – highest")
    for point in growth.points:
        spread = f"{point.lowest:.3f} – {point.highest:.3f}"
        print(f"{point.what:<12} {point.value:>8,} {point.role:<8} {point.ms:>12.3f}  {spread}")
    save_json(options.out, growth.points)
    if options.plot:
        draw(growth.points, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
