"""Liveness of a processor: its progress and its lag, for the health check and for the end of a stalled process."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from kafka import TopicPartition
from prometheus_client import Gauge, Histogram

from driftloop.core.health import Heartbeat, serve_health
from driftloop.core.kafka import clients
from driftloop.core.metrics import DEAD_LETTERS, LAG, RECORDS
from driftloop.core.settings import Settings

log = logging.getLogger(__name__)

SLOW_FACTOR = 10
"""Factor on the patience for a start, and for one batch in flight: machines and models differ."""

FIRST_BATCH = "waiting for its first batch, and what that needs"
"""Reason to wait, from the start until the handler is open."""

BATCH_SECONDS = Histogram(
    "driftloop_batch_seconds",
    "Seconds from a batch's start until all its results are confirmed.",
    ["role"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
PARTITIONS = Gauge("driftloop_partitions", "Partitions that this process reads.", ["role"])


class LivenessMonitor:
    """Watcher of one processor, in its own thread, and server of `/health` and `/metrics`.

    Use it as a context manager. The lag is read from the broker and not from the processor, so a processor that has
    stopped asking for messages is found.

    Args:
        role: Scorer or monitor; the label of its metrics.
        settings: Settings of the process.
        group: Consumer group whose committed offsets count.
        stalled: Callback that gets the reason of a stall, in the watcher's thread. A stall is either of two: messages
            have waited and none was taken for the `patience` of the settings, or one batch has been in flight for
            `SLOW_FACTOR` times that.
    """

    def __init__(self, role: str, settings: Settings, group: str, stalled: Callable[[str], None]) -> None:
        self._role = role
        self._settings = settings
        self._group = group
        self._stalled = stalled
        self._owned: list[TopicPartition] | None = None
        # Start times of the batches in flight, oldest first.
        self._batch_starts: deque[float] = deque()
        # Time of the last progress, or of the last moment without work.
        self._last_progress = time.monotonic()
        self._heartbeat = Heartbeat(settings.health.patience)
        DEAD_LETTERS.labels(role)  # a rise from zero is seen only if the zero was exported
        self._records = 0
        self._records_before = 0
        self._waiting = FIRST_BATCH
        # True while it waits for something that may take any time.
        self._excused = False
        self._stop = threading.Event()
        self._open = ExitStack()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="progress")

    def owns(self, partitions: Iterable[Any] | None) -> None:
        """Set the partitions that this process owns; `None` during a rebalance."""
        self._owned = None if partitions is None else [TopicPartition(tp.topic, tp.partition) for tp in partitions]

    def wait(self, reason: str) -> None:
        """Set the reason why the processor waits for something outside; empty if it does not wait."""
        self._waiting, self._excused = reason, bool(reason)

    def batch_started(self) -> None:
        """Record the start of a batch. Batches end in the order in which they start."""
        self._batch_starts.append(time.monotonic())

    def batch_handled(self, records: int, dead: int) -> None:
        """Record the end of the oldest batch: its results are confirmed.

        Args:
            records: Messages in the batch.
            dead: Messages of it that became dead letters.
        """
        started = self._batch_starts.popleft()
        self._records += records
        RECORDS.labels(self._role).inc(records)
        DEAD_LETTERS.labels(self._role).inc(dead)
        BATCH_SECONDS.labels(self._role).observe(time.monotonic() - started)

    def __enter__(self) -> LivenessMonitor:
        self._open.enter_context(serve_health(self._settings.health, self._heartbeat))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._open.close()

    def _watch(self) -> None:
        client: Any = None
        while not self._stop.wait(self._settings.timing.lag_check_seconds):
            try:
                client = client or clients.consumer(self._settings, group_id=self._group)
                self._check(client)
            except Exception as error:  # without a beat: a broker that stays away makes the process unhealthy
                log.debug("the lag cannot be read (%s)", error)
                self._last_progress = time.monotonic()  # a restart would not bring the broker back

    def _check(self, client: Any) -> None:
        """Read the lag once, beat if there is progress or no work, and report a stall."""
        partitions = self._owned
        if partitions is None:
            client.topics()  # raises if the broker is away
            self._report_stall("it has been without partitions")
            return
        PARTITIONS.labels(self._role).set(len(partitions))
        lag = clients.lag(client, partitions)
        progress, self._records_before = self._records > self._records_before, self._records
        # The last offset of a partition may be a transaction's own, which no consumer can take.
        if (
            not progress
            and 0 < lag <= len(partitions)
            and not clients.has_unread_messages(self._settings, client, partitions)
        ):
            lag = 0
        LAG.labels(self._role).set(lag)
        if progress or self._excused or not lag:
            self._last_progress = time.monotonic()
        else:
            self._report_stall(f"{lag} messages wait and it has taken none")
        if self._waiting and not progress:
            self._heartbeat.beat(self._waiting)
        elif progress or not lag:
            share = (
                f"{len(partitions)} partitions" if partitions else "no partition: there are more processes than those"
            )
            self._heartbeat.beat(f"{self._records} messages handled, {lag} waiting, {share}")

    def _report_stall(self, reason: str) -> None:
        """Call back if there was no progress for too long. A start and a batch in flight have more time."""
        batch_start = next(iter(self._batch_starts), None)
        if batch_start is not None:
            reason = "its batch has been under way"
        silent = time.monotonic() - (self._last_progress if batch_start is None else batch_start)
        slow = batch_start is not None or self._waiting == FIRST_BATCH
        if silent > self._settings.health.patience * (SLOW_FACTOR if slow else 1):
            self._stalled(f"The {self._role} has stalled ({reason} for {silent:.0f} s)")
