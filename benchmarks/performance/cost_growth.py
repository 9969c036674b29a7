"""Cost growth: CPU time of an event against classes, words, partitions, label delay and history, with plots.

    python -m benchmarks.performance.cost_growth --out runs/growth.json --plot docs/scaling/growth.svg

The cost is the CPU time of the process for each event of a backlog or of a steady load. A stub replaces the model where
the model is not what grows, so that the encoder's cost does not hide a change.
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
"""Events that a cost is measured on."""
RATE = 1_000.0
"""Events per second of a steady load."""
PATIENCE = 900.0
"""Seconds after which waiting for messages fails."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """Cost of an event in one process at one value of a dimension."""

    what: str
    """The dimension that grows."""
    value: int
    role: str
    """`scorer` or `monitor`."""
    ms: float
    """CPU milliseconds of an event, median of three parts of the load."""
    lowest: float
    highest: float


@dataclass
class GrowthBench:
    """Measures each dimension, with a separate stream for each value."""

    settings: Settings
    """A started stack."""
    folder: Path
    """Folder for logs and bundles."""
    texts: Sequence[str]
    points: list[Point] = field(default_factory=list)

    def classes(self) -> None:
        """Grow the classes of a linear head, and the detectors of the class shares."""
        for number in CLASSES:
            labels = [f"class {row % number}" for row in range(len(self.texts))]
            with self._stream(f"classes-{number}") as stream:
                self._promote(stream, labels[: 10 * number])
                _send(stream, range(EVENTS), self.texts)
                self._backlog(stream, "classes", number, "score", topics.PREDICTIONS)
                _label(stream, range(EVENTS), labels)
                self._backlog(stream, "classes", number, "monitor", topics.OUTCOMES)

    def words(self) -> None:
        """Grow the words of a text. The encoder truncates long texts."""
        words = " ".join(self.texts).split()
        random = np.random.default_rng(7)
        for number in WORDS:
            starts = random.integers(0, len(words) - number, size=EVENTS // 3).tolist()
            texts = [" ".join(words[start : start + number]) for start in starts]
            with self._stream(f"words-{number}") as stream:
                self._promote(stream, ["positive", "negative"] * 100)
                _send(stream, range(len(texts)), texts)
                self._backlog(stream, "words", number, "score", topics.PREDICTIONS, len(texts))

    def partitions(self) -> None:
        """Grow the partitions of a scorer with a stub model."""
        for number in PARTITIONS:
            with self._stream(f"partitions-{number}", partitions=number) as stream:
                stream.promote()
                _send(stream, range(3 * EVENTS), self.texts)
                self._backlog(stream, "partitions", number, "score", topics.PREDICTIONS, 3 * EVENTS, stub=True)

    def delay(self) -> None:
        """Grow the label delay of the monitor, at a steady load with a stub model."""
        for number in DELAYS:
            with self._stream(f"delay-{number}") as stream:
                stream.promote()
                _start(stream, "score", stub=True)
                child = _start(stream, "monitor")
                _send(stream, range(number), self.texts)
                _marked(stream, child, topics.PREDICTIONS, number)
                marks = []
                for part in range(4):  # the first one warms up
                    self._steady(stream, number + part * EVENTS // 3, number + (part + 1) * EVENTS // 3, number)
                    marks.append(_marked(stream, child, topics.OUTCOMES, (part + 1) * EVENTS // 3))
                self._record("label delay", number, "monitor", marks)

    def history(self) -> None:
        """Grow the history of both processes, at a steady load with a stub model."""
        with self._stream("history") as stream:
            stream.promote()
            scorer, monitor = _start(stream, "score", stub=True), _start(stream, "monitor")
            sent = 0
            for before in HISTORY:
                marks: list[list[tuple[int, float]]] = []
                for part in range(4):
                    self._steady(stream, sent, before + part * EVENTS // 3)
                    sent = before + part * EVENTS // 3
                    marks.append(
                        [
                            _marked(stream, scorer, topics.PREDICTIONS, sent),
                            _marked(stream, monitor, topics.OUTCOMES, sent),
                        ]
                    )
                for role, own in zip(("score", "monitor"), zip(*marks, strict=True), strict=True):
                    self._record("history", before, role, own)

    def _steady(self, stream: StreamHarness, first: int, last: int, delay: int = 0) -> None:
        """Send events at `RATE`, each with the label of the event ``delay`` positions before it."""
        for begin in range(first, last, 100):
            due = time.monotonic() + 100 / RATE
            numbers = range(begin, min(begin + 100, last))
            _send(stream, numbers, self.texts)
            _label(stream, range(numbers.start - delay, numbers.stop - delay), ["positive"])
            time.sleep(max(0.0, due - time.monotonic()))

    def _backlog(
        self,
        stream: StreamHarness,
        what: str,
        value: int,
        role: str,
        out: Topic,
        events: int = EVENTS,
        stub: bool = False,
    ) -> None:
        """Let a process work through a backlog."""
        child = _start(stream, role, stub)
        marks = [_marked(stream, child, out, part * events // 4) for part in range(1, 5)]
        child.stop()
        self._record(what, value, role, marks)

    def _record(self, what: str, value: int, role: str, marks: Sequence[tuple[int, float]]) -> None:
        found = [1000 * (cpu - before) / (n - m) for (m, before), (n, cpu) in pairwise(marks) if n > m]
        role = "scorer" if role == "score" else role
        point = Point(
            what=what, value=value, role=role, ms=round(median(found), 3), lowest=min(found), highest=max(found)
        )
        self.points.append(point)
        print(f"{what} {value:,}: {role} {point.ms:.3f} ms", file=sys.stderr, flush=True)

    def _promote(self, stream: StreamHarness, labels: Sequence[str]) -> None:
        """Promote a champion with as many classes as there are different labels."""
        encoder = exported_encoder(stream.settings.model)
        texts = list(self.texts[: len(labels)])
        head = Head(LogisticRegression(max_iter=20).fit(encoder.embed(texts), np.asarray(labels)))
        bundle = stream.folder / "bundle"
        lineage = Lineage(candidate="linear")
        key = stream.settings.signing_key
        write_bundle(bundle, encoder=encoder, head=head, labels=head.classes, lineage=lineage, key=key)
        train_champion.announce(stream.settings, bundle)

    @contextmanager
    def _stream(self, name: str, **changes: Any) -> Iterator[StreamHarness]:
        settings = replace(self.settings, stream=name, topic_prefix=f"{name}.", **changes)
        topics.create(settings)
        folder = self.folder / name
        folder.mkdir()
        stream = StreamHarness(settings, folder)
        try:
            yield stream
        finally:
            stream.close()


def _start(stream: StreamHarness, role: str, stub: bool = False) -> ManagedProcess:
    if stub and role == "score":
        return stream.start(role, plan=stream.folder / "plan", changes=("stub",))
    return stream.start(role)


def _marked(stream: StreamHarness, child: ManagedProcess, out: Topic, messages: int) -> tuple[int, float]:
    """Wait for a number of messages on a topic. Return their number and the CPU seconds of a process."""
    stream.until(lambda: stream.count(out) >= messages, PATIENCE)
    return stream.count(out), cpu_seconds(child.pid or 0)


def _send(stream: StreamHarness, numbers: Sequence[int], texts: Sequence[str]) -> None:
    """Send events. The n-th has the n-th text, again from the first after the last."""
    _put(
        stream,
        topics.EVENTS,
        (Event(event_id=f"e{n}", text=texts[n % len(texts)], occurred_at=1000.0 + n, position=n) for n in numbers),
    )


def _label(stream: StreamHarness, numbers: Sequence[int], labels: Sequence[str]) -> None:
    """Send labels, again from the first after the last."""
    _put(
        stream,
        topics.LABELS,
        (Label(event_id=f"e{n}", label=labels[n % len(labels)], labelled_at=1000.0 + n, position=n) for n in numbers),
    )


def _put(stream: StreamHarness, topic: Topic, bodies: Iterable[Event | Label]) -> None:
    for body in bodies:
        stream.outbox.put(topic.name, body.event_id, body)
        if body.position % 1000 == 999:
            stream.outbox.flush()
    stream.outbox.flush()


def draw(points: Sequence[Point], path: Path) -> None:
    """Draw one SVG file with a small plot for each dimension.

    Args:
        points: Measured costs.
        path: File to write.
    """
    dimensions = list(dict.fromkeys(point.what for point in points))
    with svg():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2.4 * len(dimensions), 2.4), layout="constrained")
        for axes, what in zip(np.atleast_1d(figure.subplots(1, len(dimensions))), dimensions, strict=True):
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
        figure.supylabel("ms of a core per event")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


PARTS: dict[str, Callable[[GrowthBench], None]] = {
    "classes": GrowthBench.classes,
    "words": GrowthBench.words,
    "partitions": GrowthBench.partitions,
    "delay": GrowthBench.delay,
    "history": GrowthBench.history,
}


def main() -> int:
    """Print one table, write its rows as JSON, and draw them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.performance.cost_growth", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="dimensions to measure")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the plots as SVG")
    options = parser.parse_args()
    texts = [row.text for row in load_scenario("tweets-stationary").sequence]
    with (
        tempfile.TemporaryDirectory(prefix="driftloop-bench-") as folder,
        EmbeddedStack(Path(folder, "stack")) as stack,
    ):
        bench = GrowthBench(stack.settings(Settings(keep_hours=1.0)), Path(folder), texts)
        for part in options.parts:
            PARTS[part](bench)
    print(f"{'dimension':<12} {'value':>8} {'process':<8} {'ms per event':>12}  lowest – highest")
    for point in bench.points:
        spread = f"{point.lowest:.3f} – {point.highest:.3f}"
        print(f"{point.what:<12} {point.value:>8,} {point.role:<8} {point.ms:>12.3f}  {spread}")
    save_json(options.out, bench.points)
    if options.plot:
        draw(bench.points, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
