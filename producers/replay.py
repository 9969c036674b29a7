"""Replay a scenario into Kafka: events at their rate, labels behind them, each of both exactly once.

The producer is idempotent, so a retry inside one run is written once. A run that was cut off goes on from what lies
on the two topics already.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from kafka.errors import KafkaError, MessageSizeTooLargeError
from opentelemetry.trace import Span
from prometheus_client import Counter, Histogram

from driftloop.core import messages, topics
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import acls, clients
from driftloop.core.observability import tracing
from driftloop.core.settings import Settings
from producers import resume_position
from producers.label_schedule import LabelSchedule
from producers.scenarios.scenarios import Scenario, parse_rate
from producers.simulated_annotators import first_sent

IN_FLIGHT = 2_000
"""Most messages sent and not acknowledged."""
GRACE = 5.0
"""Seconds that a stopped run waits for the last acknowledgements."""

Progress = Callable[[int, int, float], None]
"""Called about twice a second with: events sent so far, events in all, events per second since the last call."""


@dataclass(frozen=True)
class ReplayReport:
    """What one run did."""

    events: int
    """Events sent and acknowledged in this run; ``labels`` likewise."""
    labels: int
    seconds: float
    resumed_from: int
    """Position after the last event that was on the topic already; 0 for a new replay."""
    complete: bool
    """False when the run was stopped before its end; the same command goes on from there."""


def run(
    settings: Settings,
    scenario: Scenario,
    *,
    rate: float | str | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    patience: float = 120.0,
) -> ReplayReport:
    """Send the events and labels of ``scenario`` that are not on the topics yet.

    ``rate`` (events/s, "max" or infinite) and ``limit`` (events) replace the scenario's own. The first ``bootstrap``
    events go out at full speed with their labels. ``stop``, SIGINT and SIGTERM end the run cleanly. The broker may
    be away for up to ``patience`` seconds; what was due meanwhile is then sent at once.

    Raises:
        DriftloopError: the broker is not there, stays away, or refuses a message; the text says how far it got.
    """
    pace = parse_rate(scenario.rate if rate is None else rate)
    if limit is not None and limit < 1:
        raise DriftloopError(f"The limit must be 1 event or more, not {limit}.")
    bootstrap = settings.retrain.bootstrap if scenario.bootstrap is None else scenario.bootstrap
    total = len(scenario) if limit is None else min(limit, len(scenario))
    schedule = LabelSchedule(total, scenario.label_delay, bootstrap)
    halt = stop or threading.Event()
    clock = _Pacer(pace, bootstrap, total, halt, progress)
    began = time.monotonic()
    with _signals(halt):
        events, labels = _already_sent(settings, scenario)
        with _Sender(settings, scenario, patience, halt) as sender:
            # Settled before anything new is sent: no gap may come to lie further back than IN_FLIGHT.
            for position in events.gaps:
                sender.event(position)
            for position in labels.gaps:
                sender.label(position)
            sender.flush()
            next_label = first_sent(scenario.annotations, labels.last + 1, total)
            complete = _send_rest(sender, clock, schedule, events.last + 1, next_label)
    return ReplayReport(sender.events, sender.labels, time.monotonic() - began, events.last + 1, complete)


def _send_rest(sender: _Sender, clock: _Pacer, schedule: LabelSchedule, next_event: int, next_label: int) -> bool:
    """Send the events from ``next_event`` and the labels from ``next_label`` on; False when stopped before the end."""
    first = next_event
    if first >= schedule.total:  # only labels are left: do not sit out the ticks before the first of them
        rest = schedule.tick(next_label) if next_label < schedule.total else schedule.ticks
        first = max(schedule.total, rest)
    clock.tick = first
    for position in range(next_label, schedule.sent_before(first)):
        sender.label(position)
    for tick in range(first, schedule.ticks):
        if not clock.wait(tick):
            break
        if tick < schedule.total:
            sender.event(tick)
        for position in schedule.due(tick):
            if position >= next_label:
                sender.label(position)
    sender.flush()
    clock.report(force=True)
    return clock.tick == schedule.ticks


def _already_sent(settings: Settings, scenario: Scenario) -> tuple[resume_position.Sent, resume_position.Sent]:
    positions = {event_id.encode(): position for position, event_id in enumerate(scenario.event_ids)}
    try:
        topics.create(settings)
        acls.check(settings, acls.find("producer"))
        events = resume_position.find_sent(settings, topics.name(settings, topics.EVENTS), positions, IN_FLIGHT)
        labels = resume_position.find_sent(settings, topics.name(settings, topics.LABELS), positions, IN_FLIGHT)
    except KafkaError as error:
        raise DriftloopError(
            f"Kafka at {settings.kafka} failed before the replay began ({error}): try again."
        ) from error
    return events, labels


class _Pacer:
    """Says when each tick is due, by a schedule fixed when the first paced tick comes, so that delays do not add up."""

    def __init__(
        self, pace: float, bootstrap: int, total: int, halt: threading.Event, progress: Progress | None
    ) -> None:
        self._pace = pace
        self._bootstrap = bootstrap
        self._total = total
        self._halt = halt
        self._progress = progress
        self._origin: tuple[int, float] | None = None
        self._reported: tuple[int, float] | None = None
        self.tick = 0
        """Ticks done."""

    def wait(self, tick: int) -> bool:
        """Return when ``tick`` is due; False when the run is to stop instead."""
        self.tick = tick
        self.report()
        if tick >= self._bootstrap and self._pace != math.inf:
            if self._origin is None:
                self._origin = (tick, time.monotonic())
            first, began = self._origin
            while (early := began + (tick - first) / self._pace - time.monotonic()) > 0:
                if self._halt.wait(min(early, 0.5)):
                    break
                self.report()
        if self._halt.is_set():
            return False
        self.tick = tick + 1
        return True

    def report(self, force: bool = False) -> None:
        """Tell ``progress``, at most twice a second."""
        if self._progress is None:
            return
        now = time.monotonic()
        if self._reported is None:
            self._reported = (self.tick, now)
        tick, before = self._reported
        if force or now - before >= 0.5:
            sent = min(self.tick, self._total)
            rate = (sent - min(tick, self._total)) / (now - before) if now > before else 0.0
            self._progress(sent, self._total, rate)
            self._reported = (self.tick, now)


SENT = Counter("driftloop_sent", "Messages that the broker has acknowledged.", ["topic"])
SECONDS = Histogram(
    "driftloop_send_seconds",
    "Time from a message's sending until the broker has acknowledged it.",
    ["topic"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
)


class _Sender:
    """Sends by position and sees to it that every message is acknowledged."""

    def __init__(self, settings: Settings, scenario: Scenario, patience: float, halt: threading.Event) -> None:
        self._settings = settings
        self._scenario = scenario
        self._patience = patience
        self._halt = halt
        self._waiting: deque[tuple[Any, int]] = deque()
        self._traces: dict[int, tracing.Headers] = {}
        """What the events whose labels are due went out with, by position: an earlier run's are not known."""
        self.events = 0
        self.labels = 0
        milliseconds = int(patience * 1000)
        self._producer = clients.producer(
            settings,
            delivery_timeout_ms=milliseconds,
            max_block_ms=milliseconds,
            request_timeout_ms=min(30_000, milliseconds // 2),
        )

    def event(self, position: int) -> None:
        """Send the event at ``position``; blocks while too many messages are in flight."""
        row = self._scenario.sequence[position]
        event_id = self._scenario.event_ids[position]
        event = messages.Event(
            event_id=event_id, text=row.text, segment=row.segment, occurred_at=time.time(), position=position
        )
        headers = self._send(topics.EVENTS, position, event_id, event)
        if headers:
            self._traces[position] = headers
        self.events += 1

    def label(self, position: int) -> None:
        """Send what the annotator says of the event at ``position``, unless that label never comes."""
        annotator, given = self._scenario.annotations[position]
        headers = self._traces.pop(position, ())
        if given is None:
            return
        event_id = self._scenario.event_ids[position]
        label = messages.Label(
            event_id=event_id, label=given, annotator=annotator, labelled_at=time.time(), position=position
        )
        self._send(topics.LABELS, position, event_id, label, headers)
        self.labels += 1

    def flush(self) -> None:
        """Wait until everything sent so far is acknowledged."""
        while self._waiting:
            self._acknowledge()

    def _send(
        self,
        topic: topics.Topic,
        position: int,
        event_id: str,
        message: messages.Message,
        came_with: tracing.Headers = (),
    ) -> tracing.Headers:
        """Hand a message to the producer; returns its headers."""
        while self._waiting and self._waiting[0][0].is_done:
            self._acknowledge()
        while len(self._waiting) >= IN_FLIGHT:
            self._acknowledge()
        full = topics.name(self._settings, topic)
        span = tracing.start(f"send {topic.name}", "producer", full, event_id, came_with)
        headers = tracing.inject_headers(span)
        try:
            future = self._producer.send(full, messages.encode(message), key=event_id.encode(), headers=list(headers))
        except KafkaError as error:
            tracing.finish([span], str(error))
            raise self._failure(error, position) from error
        future.add_both(_over, topic.name, time.monotonic(), span)
        self._waiting.append((future, position))
        return headers

    def _acknowledge(self) -> None:
        """Wait for the oldest message in flight: the producer gives up by itself when its patience ends."""
        future, position = self._waiting[0]
        give_up = time.monotonic() + self._patience + GRACE
        while True:
            try:
                future.get(timeout=0.5)
                break
            except KafkaError as error:
                if future.is_done or time.monotonic() > give_up:
                    raise self._failure(error, position) from error
                if self._halt.is_set():
                    give_up = min(give_up, time.monotonic() + GRACE)
        self._waiting.popleft()

    def _failure(self, error: KafkaError, position: int) -> DriftloopError:
        if isinstance(error, MessageSizeTooLargeError):
            row = self._scenario.sequence[position]
            return DriftloopError(
                f"Row {row.row} of the dataset has {len(row.text):,} characters, more than Kafka takes in one "
                "message: shorten or remove it."
            )
        return DriftloopError(
            f"Kafka at {self._settings.kafka} stopped taking messages at position {position} of "
            f"{len(self._scenario)} of the scenario {self._scenario.name} ({error}): see whether the broker runs, "
            "then run the same command again; it goes on from there."
        )

    def __enter__(self) -> _Sender:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            # After a failure nothing may still be on its way when the next run looks at the topics. kafka-python's
            # own close() raises at an unfinished flush and leaves its thread sending, so that is ended first.
            sender = self._producer._sender
            sender.force_close()
            sender.join(GRACE)
        with suppress(KafkaError):
            self._producer.close(timeout=GRACE)


def _over(topic: str, began: float, span: Span | None, result: Any) -> None:
    """A message is acknowledged, or given up; called by the producer's own thread."""
    if isinstance(result, Exception):
        tracing.finish([span], str(result))
        return
    SENT.labels(topic).inc()
    SECONDS.labels(topic).observe(time.monotonic() - began)
    tracing.finish([span])


@contextmanager
def _signals(halt: threading.Event) -> Iterator[None]:
    """Set ``halt`` at the first SIGINT or SIGTERM; a second one acts as it did before."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can receive signals; the caller has `stop`
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(_number: int, _frame: FrameType | None) -> None:
        halt.set()
        restore()

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        restore()
