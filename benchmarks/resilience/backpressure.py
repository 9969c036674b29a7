"""Backpressure benchmark: a producer faster than the scorer, or a million waiting events, with an audit at the end.

    python -m benchmarks.resilience.backpressure                          # ten times faster for 30 s, then the backlog
    python -m benchmarks.resilience.backpressure --events 1000000         # a million waiting events, 10% with a label

The model is a stub, so that the system around it is measured. In the first form an event takes the scorer at least five
milliseconds. The expected time to catch up is the backlog times that. In the second form all events are sent before the
scorer starts. So only scorer and monitor run, and their speed at the end can be compared with that at the start.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import psutil
from msgspec.structs import replace

from benchmarks.harness import process_sampler
from benchmarks.harness.cli import save_json
from benchmarks.harness.stream_harness import StreamHarness
from driftloop.core import topics
from driftloop.core.messages import Event, Label
from driftloop.core.settings import Settings
from driftloop.core.topics import Topic
from driftloop.devstack.stack import EmbeddedStack
from serving.audit.audit import Audit, audit

MIN_MS_PER_EVENT = 5.0
PATIENCE = 3600.0
"""Seconds after which waiting for messages fails."""
PROGRESS_EVERY = 20.0
"""Seconds between two lines of progress."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of the benchmark."""

    events: int
    sent_per_second: float
    scored_per_second: float
    backlog: int
    """Events that waited when the last one was sent."""
    catch_up: float
    """Seconds from the last event sent until the last prediction."""
    computed: float
    """Expected seconds: the backlog times the minimum time of an event, or the backlog at the mean rate."""
    audit: Audit
    audit_seconds: float
    audit_mib: float
    """Maximum memory that the audit added to its process, in MiB."""
    tenths: list[float]
    """Events per second of each tenth of the events. Empty if a producer ran beside the scorer."""
    growth: list[process_sampler.Growth]


def main() -> int:
    """Print the outcome. Return 1 if a message is missing or duplicated."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.resilience.backpressure", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--events", type=int, help="send this number of events before the scorer starts")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of the fast producer (default: 30)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result as JSON")
    options = parser.parse_args()
    floor = 0.0 if options.events else MIN_MS_PER_EVENT
    events = options.events or int(10_000 / MIN_MS_PER_EVENT * options.seconds)
    rate = float("inf") if options.events else 10_000 / MIN_MS_PER_EVENT
    with tempfile.TemporaryDirectory(prefix="driftloop-") as folder, EmbeddedStack(Path(folder, "stack")) as stack:
        settings = stack.settings(Settings(stream="load", topic_prefix="load.", keep_hours=0.5))
        settings = replace(settings, scorer=replace(settings.scorer, min_ms_per_event=floor, batch=256))
        topics.create(settings)
        done = measure(stack, StreamHarness(settings, Path(folder)), events, rate, floor)
    show(done)
    save_json(options.out, done)
    return int(not done.audit.clean or bool(done.audit.counts["waiting"]))


def measure(stack: EmbeddedStack, harness: StreamHarness, events: int, rate: float, min_ms: float) -> Result:
    """Send events, every tenth with its label, and wait until all are processed.

    Args:
        stack: A started stack, whose processes are sampled.
        harness: A stream.
        events: Number of events.
        rate: Events per second. Infinite sends all of them before the scorer starts.
        min_ms: Minimum milliseconds of an event in the scorer.
    """
    harness.promote()
    _send(harness, 1, 1.0, 0)
    before = rate == float("inf")
    sent_for = _send(harness, events, rate, 1) if before else 0.0
    children = {
        "scorer": harness.start("score", plan=harness.folder / "plan", changes=("stub",)),
        "monitor": harness.start("monitor"),
    }
    pids = {name: child.pid for name, child in children.items() if child.pid} | stack.pids
    with process_sampler.Sampler(lambda: pids, settled=5.0) as sampler:
        harness.until(lambda: harness.count(topics.PREDICTIONS) > 0)
        began = time.monotonic()
        if not before:
            sent_for = _send(harness, events, rate, 1)
        backlog = events + 1 - harness.count(topics.PREDICTIONS)
        seen = _wait(harness, topics.PREDICTIONS, events + 1)
        took = time.monotonic() - began
        _wait(harness, topics.OUTCOMES, harness.count(topics.LABELS))
        time.sleep(3)  # until the last batch is committed
    for child in children.values():
        child.stop()
    report, seconds, mib = _audit(harness.settings)
    return Result(
        events=events + 1,
        sent_per_second=round(events / sent_for, 1),
        scored_per_second=round(events / took, 1),
        backlog=backlog,
        catch_up=round(took if before else took - sent_for, 1),
        computed=round(backlog * (min_ms / 1000 or took / events), 1),
        audit=report,
        audit_seconds=round(seconds, 1),
        audit_mib=round(mib, 1),
        tenths=_tenths(seen, events + 1) if before else [],
        growth=sampler.growth(),
    )


def _send(harness: StreamHarness, events: int, rate: float, first: int) -> float:
    """Send events at a rate, acknowledged a thousand at a time. Return the seconds that it took."""
    began = time.monotonic()
    for number in range(first, first + events):
        event_id = f"e{number}"
        event = Event(event_id=event_id, text=f"a text of number {number}", occurred_at=time.time(), position=number)
        harness.outbox.put(topics.EVENTS.name, event_id, event)
        if number % 10 == 0:
            label = Label(event_id=event_id, label="positive", labelled_at=time.time(), position=number)
            harness.outbox.put(topics.LABELS.name, event_id, label)
        if number % 1000 == 999:
            harness.outbox.flush()
            time.sleep(max(0.0, began + (number - first) / rate - time.monotonic()))
    harness.outbox.flush()
    return time.monotonic() - began


def _wait(harness: StreamHarness, topic: Topic, goal: int) -> list[tuple[float, int]]:
    """Wait for a number of messages on a topic. Return the times and counts of all samples."""
    printed = time.monotonic()
    seen: list[tuple[float, int]] = []

    def complete() -> bool:
        nonlocal printed
        count = harness.count(topic)
        seen.append((time.monotonic(), count))
        if time.monotonic() - printed > PROGRESS_EVERY:
            printed = time.monotonic()
            print(f"{topic.name}: {count:,} of {goal:,}", file=sys.stderr, flush=True)
        return count >= goal

    harness.until(complete, PATIENCE)
    return seen


def _tenths(seen: Sequence[tuple[float, int]], events: int) -> list[float]:
    """Return the events per second of each tenth. The first tenth excludes the messages of the first sample."""
    moments, counts = zip(*seen, strict=True)
    marks = np.linspace(counts[0], events, 11)
    return [round(float(speed), 1) for speed in np.diff(marks) / np.diff(np.interp(marks, counts, moments))]


def _audit(settings: Settings) -> tuple[Audit, float, float]:
    """Return the audit, the seconds that it took, and the maximum MiB that it added."""
    own, most, finished = psutil.Process(), 0, threading.Event()
    before = own.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not finished.wait(0.1):
            most = max(most, own.memory_info().rss - before)

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.monotonic()
    try:
        return audit(settings), time.monotonic() - began, most / process_sampler.MIB
    finally:
        finished.set()
        thread.join()


def show(done: Result) -> None:
    """Print the outcome."""
    print(f"{done.events} events, sent at {done.sent_per_second:.0f}/s, scored at {done.scored_per_second:.0f}/s")
    if done.tenths:
        print(f"events/s by tenths: {' '.join(f'{speed:.0f}' for speed in done.tenths)}")
    print(f"backlog {done.backlog}: processed in {done.catch_up:.1f} s, expected {done.computed:.1f} s")
    print(f"audit in {done.audit_seconds:.0f} s and {done.audit_mib:.0f} MiB: {done.audit.verdict} {done.audit.counts}")
    for finding in done.audit.findings:
        print(f"  {finding.kind}: {finding.count} {finding.what} (first: {', '.join(finding.first)})")
    process_sampler.print_growth(done.growth)


if __name__ == "__main__":
    sys.exit(main())
