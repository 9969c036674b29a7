"""Whether a processor gets on: what it has handled, what still waits, and its answer to a health check."""

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

LOOK_EVERY = 3.0
"""Seconds between two looks at the lag."""
LONG = 10
"""Times the patience that a start, or one batch, may take: machines and models differ."""

FIRST = "waiting for its first batch, and what that needs"

BATCH_SECONDS = Histogram(
    "driftloop_batch_seconds",
    "Time from a batch's start until all its results are confirmed.",
    ["role"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
PARTITIONS = Gauge("driftloop_partitions", "Partitions that this process reads.", ["role"])


class LivenessMonitor:
    """Use as a context manager: while it is open, `/health` and `/metrics` are served where the settings want them.

    The lag is read from the broker, not from the processor: one that has stopped asking for messages shows it.

    Args:
        role: scorer or monitor; the label of its metrics.
        group: the consumer group whose committed offsets count.
        stalled: called, with words, from a thread, when messages have waited and none was taken for the patience of
            the settings, or a batch is under way for `LONG` times that.
    """

    def __init__(self, role: str, settings: Settings, group: str, stalled: Callable[[str], None]) -> None:
        self._role = role
        self._settings = settings
        self._group = group
        self._stalled = stalled
        self._owned: list[TopicPartition] | None = None
        self._began: deque[float] = deque()
        """When the batches under way began, the oldest first."""
        self._moved = time.monotonic()
        """When something was last done, or there was nothing to do."""
        self._pulse = Heartbeat(settings.health.patience)
        DEAD_LETTERS.labels(role)  # what begins at zero is seen to rise from it
        self._records = 0
        self._seen = 0
        self._waiting = FIRST
        self._excused = False
        """Whether it waits for something that may take any time."""
        self._stop = threading.Event()
        self._open = ExitStack()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="progress")

    def owns(self, partitions: Iterable[Any] | None) -> None:
        """The partitions that are this process's own, None during a rebalance."""
        self._owned = None if partitions is None else [TopicPartition(tp.topic, tp.partition) for tp in partitions]

    def wait(self, reason: str) -> None:
        """The processor waits for something outside, in words; empty when that is over."""
        self._waiting, self._excused = reason, bool(reason)

    def begins(self) -> None:
        """A batch is taken; batches end in the order in which they began."""
        self._began.append(time.monotonic())

    def handled(self, records: int, dead: int) -> None:
        """The oldest batch is through, what it wrote is confirmed; ``dead`` of the records are dead letters."""
        began = self._began.popleft()
        self._records += records
        RECORDS.labels(self._role).inc(records)
        DEAD_LETTERS.labels(self._role).inc(dead)
        BATCH_SECONDS.labels(self._role).observe(time.monotonic() - began)

    def __enter__(self) -> LivenessMonitor:
        self._open.enter_context(serve_health(self._settings.health, self._pulse))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._open.close()

    def _watch(self) -> None:
        client: Any = None
        while not self._stop.wait(LOOK_EVERY):
            try:
                client = client or clients.consumer(self._settings, group_id=self._group)
                self._look(client)
            except Exception as error:  # no beat: a broker that stays away makes the process ill
                log.debug("the lag cannot be read (%s)", error)
                self._moved = time.monotonic()  # but no restart would bring it back

    def _look(self, client: Any) -> None:
        partitions = self._owned
        if partitions is None:
            client.topics()  # raises where the broker is away
            self._complain("it has been without partitions")
            return
        PARTITIONS.labels(self._role).set(len(partitions))
        lag = clients.lag(client, partitions)
        moved, self._seen = self._records > self._seen, self._records
        # The last offset of a partition may be a transaction's own, which nobody can take.
        if (
            not moved
            and 0 < lag <= len(partitions)
            and not clients.has_unread_messages(self._settings, client, partitions)
        ):
            lag = 0
        LAG.labels(self._role).set(lag)
        if moved or self._excused or not lag:
            self._moved = time.monotonic()
        else:
            self._complain(f"{lag} messages wait and it has taken none")
        if self._waiting and not moved:
            self._pulse.beat(self._waiting)
        elif moved or not lag:
            share = (
                f"{len(partitions)} partitions" if partitions else "no partition: there are more processes than those"
            )
            self._pulse.beat(f"{self._records} messages handled, {lag} waiting, {share}")

    def _complain(self, what: str) -> None:
        """Say that nothing has gone on for too long; a start, and a batch under way, have more time."""
        began = next(iter(self._began), None)
        if began is not None:
            what = "its batch has been under way"
        silent = time.monotonic() - (self._moved if began is None else began)
        longer = began is not None or self._waiting == FIRST
        if silent > self._settings.health.patience * (LONG if longer else 1):
            self._stalled(f"The {self._role} has stalled ({what} for {silent:.0f} s)")
