"""Sender of a replay: events and labels by position, each acknowledged by the broker."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

from kafka.errors import KafkaError, MessageSizeTooLargeError
from opentelemetry.trace import Span
from prometheus_client import Counter, Histogram

from driftloop.core import messages, topics
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.observability import tracing
from driftloop.core.settings import Settings
from producers.scenarios.scenarios import Scenario

GRACE = 5.0
"""Seconds that a stopped run waits for the last acknowledgements."""
SENT = Counter("driftloop_sent", "Messages that the broker has acknowledged.", ["topic"])
SECONDS = Histogram(
    "driftloop_send_seconds",
    "Time from a message's sending until the broker has acknowledged it.",
    ["topic"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
)


class Sender:
    """Sends the messages of a scenario and waits for their acknowledgements. Use it as a context manager.

    Args:
        settings: Address and credentials of the broker.
        scenario: Source of the messages.
        patience: Seconds that the broker may be unreachable.
        in_flight: Maximum number of messages sent and not acknowledged.
        halt: Set when the run is to stop. Unacknowledged messages then get `GRACE` seconds.
    """

    def __init__(
        self, settings: Settings, scenario: Scenario, patience: float, in_flight: int, halt: threading.Event
    ) -> None:
        self._settings = settings
        self._scenario = scenario
        self._patience = patience
        self._in_flight = in_flight
        self._halt = halt
        self._unacknowledged: deque[tuple[Any, int]] = deque()
        # Headers of the events whose labels are not sent yet, by position. Those of an earlier run are unknown.
        self._traces: dict[int, tracing.Headers] = {}
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
        """Send the event at ``position``. Blocks while too many messages are in flight."""
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
        """Send the annotator's label of the event at ``position``, unless that label never comes."""
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
        while self._unacknowledged:
            self._acknowledge()

    def _send(
        self,
        topic: topics.Topic,
        position: int,
        event_id: str,
        message: messages.Message,
        parent: tracing.Headers = (),
    ) -> tracing.Headers:
        """Hand a message to the producer and return its headers."""
        while self._unacknowledged and self._unacknowledged[0][0].is_done:
            self._acknowledge()
        while len(self._unacknowledged) >= self._in_flight:
            self._acknowledge()
        full_name = topics.name(self._settings, topic)
        span = tracing.start(f"send {topic.name}", "producer", full_name, event_id, parent)
        headers = tracing.inject_headers(span)
        try:
            future = self._producer.send(
                full_name, messages.encode(message), key=event_id.encode(), headers=list(headers)
            )
        except KafkaError as error:
            tracing.finish([span], str(error))
            raise self._failure(error, position) from error
        future.add_both(_on_acknowledged, topic.name, time.monotonic(), span)
        self._unacknowledged.append((future, position))
        return headers

    def _acknowledge(self) -> None:
        """Wait for the oldest message in flight. The producer fails by itself when its patience ends."""
        future, position = self._unacknowledged[0]
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
        self._unacknowledged.popleft()

    def _failure(self, error: KafkaError, position: int) -> DriftloopError:
        if isinstance(error, MessageSizeTooLargeError):
            row = self._scenario.sequence[position]
            return DriftloopError(
                f"Row {row.row} of the dataset has {len(row.text):,} characters, more than Kafka accepts in one "
                "message: shorten or remove it."
            )
        return DriftloopError(
            f"Kafka at {self._settings.kafka} stopped taking messages at position {position} of "
            f"{len(self._scenario)} of the scenario {self._scenario.name} ({error}): check that the broker runs, "
            "then run the same command again. It continues from there."
        )

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            # After a failure no message may still be in flight when the next run reads the topics. kafka-python's
            # own close() raises at an unfinished flush and leaves its thread sending, so that thread is ended first.
            sender = self._producer._sender
            sender.force_close()
            sender.join(GRACE)
        with suppress(KafkaError):
            self._producer.close(timeout=GRACE)


def _on_acknowledged(topic: str, began: float, span: Span | None, result: Any) -> None:
    """Count a message that was acknowledged or failed. The producer's thread calls this."""
    if isinstance(result, Exception):
        tracing.finish([span], str(result))
        return
    SENT.labels(topic).inc()
    SECONDS.labels(topic).observe(time.monotonic() - began)
    tracing.finish([span])
