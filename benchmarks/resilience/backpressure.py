"""A producer that is faster than the scorer, and a million events: is memory bounded, is everything there?

    python -m benchmarks.resilience.backpressure                          # ten times faster for 30 s, then the backlog
    python -m benchmarks.resilience.backpressure --events 1000000         # a million that wait, every tenth with a label

The model is a stub, so that it is the system around it that is measured. In the first form an event takes the scorer at
least five milliseconds: the backlog divided by that rate is the time that catching up should take. In the second all
are sent before the scorer starts, so that nothing but it and the monitor is at work, and the speed at the end can be
compared with that at the start.
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

FLOOR_MS = 5.0
PATIENCE = 3600.0
TELL_EVERY = 20.0
"""Seconds."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    events: int
    sent_per_second: float
    scored_per_second: float
    backlog: int
    """Events that waited when the last was sent."""
    catch_up: float
    """Seconds from the last event sent until the last is predicted."""
    computed: float
    """Backlog times milliseconds per event, or, without a floor, the backlog at the mean rate."""
    audit: Audit
    audit_seconds: float
    audit_mib: float
    """What the audit added to the memory of its process at most."""
    tenths: list[float]
    """Events per second of each tenth of them, without a producer beside the scorer; else empty."""
    growth: list[process_sampler.Growth]


def main() -> int:
    """Print what was measured; 1 where anything is missing."""
    parser = argparse.ArgumentParser(prog="benchmarks.resilience.backpressure", description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, help="that many at full speed, in place of a fast producer")
    parser.add_argument("--seconds", type=float, default=30.0, help="of a producer ten times faster than the scorer")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    options = parser.parse_args()
    floor = 0.0 if options.events else FLOOR_MS
    events = options.events or int(10_000 / FLOOR_MS * options.seconds)
    rate = float("inf") if options.events else 10_000 / FLOOR_MS
    with tempfile.TemporaryDirectory(prefix="driftloop-") as folder, EmbeddedStack(Path(folder, "stack")) as stack:
        settings = stack.settings(Settings(stream="load", topic_prefix="load.", keep_hours=0.5))
        settings = replace(settings, scorer=replace(settings.scorer, min_ms_per_event=floor, batch=256))
        topics.create(settings)
        done = measure(stack, StreamHarness(settings, Path(folder)), events, rate, floor)
    show(done)
    save_json(options.out, done)
    return int(not done.audit.clean or bool(done.audit.counts["waiting"]))


def measure(stack: EmbeddedStack, world: StreamHarness, events: int, rate: float, floor_ms: float) -> Result:
    """Send ``events`` at ``rate`` per second, every tenth with its label, and wait until all are through."""
    world.promote()
    _send(world, 1, 1.0, 0)
    before = rate == float("inf")
    sent_for = _send(world, events, rate, 1) if before else 0.0
    children = {
        "scorer": world.start("score", plan=world.folder / "plan", changes=("stub",)),
        "monitor": world.start("monitor"),
    }
    pids = {name: child.pid for name, child in children.items() if child.pid} | stack.pids
    with process_sampler.Sampler(lambda: pids, settled=5.0) as sampler:
        world.until(lambda: world.count(topics.PREDICTIONS) > 0)
        began = time.monotonic()
        if not before:
            sent_for = _send(world, events, rate, 1)
        backlog = events + 1 - world.count(topics.PREDICTIONS)
        seen = _wait(world, topics.PREDICTIONS, events + 1)
        took = time.monotonic() - began
        _wait(world, topics.OUTCOMES, world.count(topics.LABELS))
        time.sleep(3)  # until the last batch is committed
    for child in children.values():
        child.stop()
    said, seconds, mib = _audit(world.settings)
    return Result(
        events=events + 1,
        sent_per_second=round(events / sent_for, 1),
        scored_per_second=round(events / took, 1),
        backlog=backlog,
        catch_up=round(took if before else took - sent_for, 1),
        computed=round(backlog * (floor_ms / 1000 or took / events), 1),
        audit=said,
        audit_seconds=round(seconds, 1),
        audit_mib=round(mib, 1),
        tenths=_tenths(seen, events + 1) if before else [],
        growth=sampler.growth(),
    )


def _send(world: StreamHarness, events: int, rate: float, first: int) -> float:
    """Send events at a rate, acknowledged a thousand at a time; the seconds that it took."""
    began = time.monotonic()
    for number in range(first, first + events):
        event_id = f"e{number}"
        event = Event(event_id=event_id, text=f"a text of number {number}", occurred_at=time.time(), position=number)
        world.outbox.put(topics.EVENTS.name, event_id, event)
        if number % 10 == 0:
            label = Label(event_id=event_id, label="positive", labelled_at=time.time(), position=number)
            world.outbox.put(topics.LABELS.name, event_id, label)
        if number % 1000 == 999:
            world.outbox.flush()
            time.sleep(max(0.0, began + (number - first) / rate - time.monotonic()))
    world.outbox.flush()
    return time.monotonic() - began


def _wait(world: StreamHarness, topic: Topic, goal: int) -> list[tuple[float, int]]:
    """Wait until a topic has had so many messages, and say now and then how many; when there were how many."""
    told = time.monotonic()
    seen: list[tuple[float, int]] = []

    def there() -> bool:
        nonlocal told
        count = world.count(topic)
        seen.append((time.monotonic(), count))
        if time.monotonic() - told > TELL_EVERY:
            told = time.monotonic()
            print(f"{topic.name}: {count:,} of {goal:,}", file=sys.stderr, flush=True)
        return count >= goal

    world.until(there, PATIENCE)
    return seen


def _tenths(seen: Sequence[tuple[float, int]], events: int) -> list[float]:
    """Events per second of each tenth; the first is without what was there when it was first looked."""
    moments, counts = zip(*seen, strict=True)
    marks = np.linspace(counts[0], events, 11)
    return [round(float(speed), 1) for speed in np.diff(marks) / np.diff(np.interp(marks, counts, moments))]


def _audit(settings: Settings) -> tuple[Audit, float, float]:
    """What the ledger says, the seconds it took, and the MiB that it added at most."""
    own, most, over = psutil.Process(), 0, threading.Event()
    before = own.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not over.wait(0.1):
            most = max(most, own.memory_info().rss - before)

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.monotonic()
    try:
        return audit(settings), time.monotonic() - began, most / process_sampler.MIB
    finally:
        over.set()
        thread.join()


def show(done: Result) -> None:
    """What was measured."""
    print(f"{done.events} events, sent at {done.sent_per_second:.0f}/s, scored at {done.scored_per_second:.0f}/s")
    if done.tenths:
        print(f"events/s by tenths: {' '.join(f'{speed:.0f}' for speed in done.tenths)}")
    print(f"backlog {done.backlog}: caught up in {done.catch_up:.1f} s, computed {done.computed:.1f} s")
    print(f"{done.audit.verdict} in {done.audit_seconds:.0f} s and {done.audit_mib:.0f} MiB: {done.audit.counts}")
    for finding in done.audit.findings:
        print(f"  {finding.kind}: {finding.count} {finding.what} (first: {', '.join(finding.first)})")
    process_sampler.print_growth(done.growth)


if __name__ == "__main__":
    sys.exit(main())
