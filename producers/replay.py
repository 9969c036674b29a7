"""Replay of a scenario into Kafka: events at their rate, labels behind them, each exactly once.

The producer is idempotent, so a retry inside one run is written once. A run that was interrupted continues after the
messages that are already on the two topics.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from kafka.errors import KafkaError

from driftloop.core import topics
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import acls
from driftloop.core.settings import Settings
from producers import resume_position
from producers.label_schedule import LabelSchedule
from producers.scenarios.scenarios import Scenario, parse_rate
from producers.sender import Sender
from producers.simulated_annotators import first_sent

IN_FLIGHT = 2_000
"""Maximum number of messages sent and not acknowledged."""

Progress = Callable[[int, int, float], None]
"""Called about twice a second with the events sent, all events, and the events per second since the last call."""


@dataclass(frozen=True)
class ReplayReport:
    """Result of one run."""

    events: int
    """Events sent and acknowledged in this run."""
    labels: int
    """Labels sent and acknowledged in this run."""
    seconds: float
    """Duration of the run."""
    resumed_from: int
    """Position after the last event that was already on the topic. 0 for a new replay."""
    complete: bool
    """False if the run was stopped before its end. The same command continues from there."""


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
    """Send the events and labels of a scenario that are not on the topics yet.

    The first ``bootstrap`` events are sent at full speed with their labels. SIGINT and SIGTERM end the run cleanly.

    Args:
        settings: Address and credentials of the broker.
        scenario: Source of the messages.
        rate: Events per second, "max" or infinite. Replaces the scenario's rate.
        limit: Maximum number of events. Replaces the scenario's length.
        progress: Called about twice a second.
        stop: Ends the run cleanly when it is set.
        patience: Seconds that the broker may be unreachable. Messages due meanwhile are sent afterwards without delay.

    Raises:
        DriftloopError: The broker is unreachable or rejects a message. The text names the position reached.
    """
    pace = parse_rate(scenario.rate if rate is None else rate)
    if limit is not None and limit < 1:
        raise DriftloopError(f"The limit must be 1 event or more, not {limit}.")
    bootstrap = settings.retrain.bootstrap if scenario.bootstrap is None else scenario.bootstrap
    total = len(scenario) if limit is None else min(limit, len(scenario))
    schedule = LabelSchedule(total, scenario.label_delay, bootstrap)
    halt = stop or threading.Event()
    pacer = _Pacer(pace, bootstrap, total, halt, progress)
    began = time.monotonic()
    with _halt_on_signals(halt):
        events, labels = _already_sent(settings, scenario)
        with Sender(settings, scenario, patience, IN_FLIGHT, halt) as sender:
            # Gaps are filled before anything new is sent: no gap may lie further back than IN_FLIGHT.
            for position in events.gaps:
                sender.event(position)
            for position in labels.gaps:
                sender.label(position)
            sender.flush()
            next_label = first_sent(scenario.annotations, labels.last + 1, total)
            complete = _send_rest(sender, pacer, schedule, events.last + 1, next_label)
    return ReplayReport(sender.events, sender.labels, time.monotonic() - began, events.last + 1, complete)


def _send_rest(sender: Sender, pacer: _Pacer, schedule: LabelSchedule, next_event: int, next_label: int) -> bool:
    """Send the remaining events and labels. Return False if the run was stopped before the end."""
    first = next_event
    if first >= schedule.total:  # only labels are left: skip the ticks before the first of them
        rest = schedule.tick(next_label) if next_label < schedule.total else schedule.ticks
        first = max(schedule.total, rest)
    pacer.tick = first
    for position in range(next_label, schedule.sent_before(first)):
        sender.label(position)
    for tick in range(first, schedule.ticks):
        if not pacer.wait(tick):
            break
        if tick < schedule.total:
            sender.event(tick)
        for position in schedule.due(tick):
            if position >= next_label:
                sender.label(position)
    sender.flush()
    pacer.report(force=True)
    return pacer.tick == schedule.ticks


def _already_sent(settings: Settings, scenario: Scenario) -> tuple[resume_position.Sent, resume_position.Sent]:
    """Return the positions of the events and of the labels that are on the topics."""
    positions = {event_id.encode(): position for position, event_id in enumerate(scenario.event_ids)}
    try:
        topics.create(settings)
        acls.check_acls(settings, acls.find_role("producer"))
        events = resume_position.find_sent(settings, topics.name(settings, topics.EVENTS), positions, IN_FLIGHT)
        labels = resume_position.find_sent(settings, topics.name(settings, topics.LABELS), positions, IN_FLIGHT)
    except KafkaError as error:
        raise DriftloopError(
            f"Kafka at {settings.kafka} failed before the replay began ({error}): check that it runs, then try again."
        ) from error
    return events, labels


class _Pacer:
    """Waits for each tick. The first paced tick fixes the schedule of all others, so that delays do not add up."""

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
        """Number of ticks done."""

    def wait(self, tick: int) -> bool:
        """Wait until ``tick`` is due. Return False if the run is to stop instead."""
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
        """Call ``progress``, at most twice a second unless ``force`` is set."""
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


@contextmanager
def _halt_on_signals(halt: threading.Event) -> Iterator[None]:
    """Set ``halt`` at the first SIGINT or SIGTERM. A second signal acts as before."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals; other callers use `stop`
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
