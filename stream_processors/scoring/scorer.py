"""Scorer: events in, predictions out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from opentelemetry.trace import Span
from prometheus_client import Counter, Histogram
from threadpoolctl import threadpool_limits

from driftloop.core import messages
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import Event, Prediction
from driftloop.core.metrics import DEAD_LETTERS
from driftloop.core.models.bundle import BundleClassifier
from driftloop.core.models.champion_follower import ChampionFollower
from driftloop.core.models.classifier import Matrix
from driftloop.core.observability import tracing
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import Settings
from driftloop.core.topics import EVENTS, PREDICTIONS
from stream_processors.runtime import processor
from stream_processors.runtime.dead_letters import Record, send_dead_letter
from stream_processors.runtime.pipeline import Step
from stream_processors.scoring.cascade_router import Answer, CascadeRouter, PendingAnswers
from stream_processors.scoring.prediction_store import PredictionStore

MAX_CLOCK_LEAD = 86_400.0
"""Seconds that a producer's clock may be ahead. If a model was trained on an event from further in the future, every
later event would look like a part of its training data."""

Scored = tuple[Event, Answer]

PREDICTED = Counter("driftloop_predictions", "Predictions by model version.", ["version"])
AGE = Histogram(
    "driftloop_event_age_seconds",
    "Seconds from an event until its prediction is confirmed by Redis and the broker.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)


@dataclass
class Batch:
    """State of a batch between the steps."""

    size: int
    """Messages in it."""
    model: BundleClassifier
    started: float = field(default_factory=time.perf_counter)
    started_ns: int = field(default_factory=time.time_ns)
    """Time at which it was taken, in nanoseconds since 1970."""
    events: dict[str, tuple[Record, Event]] = field(default_factory=dict)
    """Events to score, by event id."""
    pending: PendingAnswers | None = None
    """Answers that the model is working on; `None` if it failed on the batch."""
    dead: list[tuple[Record, str]] = field(default_factory=list)
    """Messages that cannot be scored, with the reason."""
    scored: list[Scored] = field(default_factory=list)


class Scorer:
    """Handler that scores batches of raw events with the champion.

    1. `read` decodes the events and asks the model.
    2. `score` takes the answers of the model.
    3. `deliver` stores the predictions by event id in Redis, where the first one wins, publishes them, and waits for
       the broker.

    A message goes to `dead-letters` if it cannot be decoded, is too long, comes from the future, or breaks the model.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._champion = ChampionFollower(settings, self._report_refused)
        self._router = CascadeRouter(settings.scorer.cascade)
        # Time at which the batch before this one was finished.
        self._delivered_at = 0.0

    @property
    def steps(self) -> tuple[Step, ...]:
        """Steps that run in parallel: one batch is read while another is scored and a third is delivered."""
        return (self.read, self.score, self.deliver)

    def open(self) -> None:
        """Connect to Redis and Kafka, follow the promotions, and wait for the first champion."""
        store = OnlineStore(self._settings)
        store.check()
        self._predictions = PredictionStore(self._settings, store)
        self._predictions.detect_flush()
        self._outbox = ConfirmedProducer(self._settings)
        self._champion.start()
        self._champion.current()

    def close(self) -> None:
        """Stop waiting for a first champion."""
        self._champion.close()

    def read(self, records: Sequence[Record]) -> Batch:
        """Decode a batch, and ask the model for its texts."""
        batch = Batch(len(records), self._champion.current())
        for record in records:
            self._decode(record, batch)
        with suppress(Exception):  # the event that breaks the model is found when each is scored alone
            batch.pending = self._ask(batch, batch.events)
        return batch

    def score(self, batch: Batch) -> Batch:
        """Take the model's answers."""
        batch.scored = self._score(batch, batch.events, batch.pending)
        return batch

    def deliver(self, batch: Batch) -> int:
        """Store and publish the predictions; return the number of dead letters once Redis and the broker confirmed."""
        for record, error in batch.dead:
            send_dead_letter(self._outbox, record, error, "scorer")
        if batch.scored:
            predictions = self._make_predictions(batch)
            embeddings = {event.event_id: answer.embedding for event, answer in batch.scored}
            bodies = {p.event_id: messages.encode(p) for p in predictions}
            spans = self._spans(batch, bodies)
            headers = {event_id: tracing.inject_headers(span) for event_id, span in spans.items()}
            traces = {event_id: value for event_id, carried in headers.items() for _, value in carried}
            stored = self._predictions.save_first(bodies, embeddings, batch.model.encoder.digest, traces)
            for event_id, body in stored.items():
                self._outbox.put(PREDICTIONS.name, event_id, body, headers.get(event_id, ()))
        self._outbox.flush()
        if batch.scored:
            tracing.finish(spans.values())
            self._predictions.confirm(stored)
            PREDICTED.labels(batch.model.version).inc(len(batch.scored))
            now = time.time()
            for event, _ in batch.scored:
                AGE.observe(max(0.0, now - event.occurred_at))
        self._wait_min_time(batch)
        return len(batch.dead)

    def _decode(self, record: Record, batch: Batch) -> None:
        """Add the event of a message to the batch, or the message to its dead letters."""
        value = record.value or b""
        most = self._settings.scorer.max_bytes
        if len(value) > most:
            batch.dead.append((record, f"{len(value)} bytes are more than the {most} that are scored"))
            return
        try:
            event = messages.decode(Event, value)
        except ValueError as error:
            batch.dead.append((record, f"not an event: {error}"))
            return
        if event.occurred_at > time.time() + MAX_CLOCK_LEAD:
            future = f"it occurs in the future, at {event.occurred_at:.0f}: set the producer's clock"
            batch.dead.append((record, future))
            return
        batch.events.setdefault(event.event_id, (record, event))

    def _ask(self, batch: Batch, events: dict[str, tuple[Record, Event]]) -> PendingAnswers:
        return self._router.begin(
            batch.model,
            list(events),
            [event.text for _, event in events.values()],
            full=batch.size >= self._settings.scorer.batch,
            drifting=self._champion.drifting,
        )

    def _score(
        self, batch: Batch, events: dict[str, tuple[Record, Event]], pending: PendingAnswers | None = None
    ) -> list[Scored]:
        """Return the events with their answers.

        If the model fails, each event is scored alone. The ones that break it become dead letters.
        """
        pairs = list(events.values())
        if not pairs:
            return []
        try:
            answers = self._router.finish(batch.model, pending or self._ask(batch, events))
            return [(event, answer) for (_, event), answer in zip(pairs, answers, strict=True)]
        except Exception as error:  # the text is untrusted, and the model's libraries raise types of their own
            if len(pairs) == 1:
                record, _ = pairs[0]
                batch.dead.append((record, f"the model failed on it: {error!r}"[:500]))
                return []
        return [row for key, pair in events.items() for row in self._score(batch, {key: pair})]

    def _make_predictions(self, batch: Batch) -> list[Prediction]:
        """Return the prediction for each scored event."""
        model = batch.model
        now = time.time()
        latency = round((time.perf_counter() - batch.started) * 1000, 3)
        encoder = model.encoder.digest[:16]
        return [
            Prediction(
                event_id=event.event_id,
                label=model.labels[int(answer.probabilities.argmax())],
                probabilities=_by_class(model, answer.probabilities),
                model_version=model.version,
                route=answer.route,
                latency_ms=latency,
                text=event.text,
                segment=event.segment,
                occurred_at=event.occurred_at,
                predicted_at=now,
                position=event.position,
                in_sample=event.occurred_at <= model.trained_until,
                encoder="" if answer.embedding is None else encoder,
                revision=model.revision,
                reference={} if answer.reference is None else _by_class(model, answer.reference),
            )
            for event, answer in batch.scored
        ]

    def _spans(self, batch: Batch, scored: Iterable[str]) -> dict[str, Span | None]:
        """Return the spans of the scored events by event id, in the traces of the events; none if tracing is off.

        The spans start with their batch.
        """
        if not tracing.enabled():
            return {}
        return {
            event_id: tracing.start("score", "consumer", record.topic, event_id, record.headers, began=batch.started_ns)
            for event_id, record in ((event_id, batch.events[event_id][0]) for event_id in scored)
        }

    def _wait_min_time(self, batch: Batch) -> None:
        """Wait until the batch has taken the minimum time per event of the settings."""
        floor = batch.size * self._settings.scorer.min_ms_per_event / 1000
        time.sleep(max(0.0, floor - (time.perf_counter() - max(batch.started, self._delivered_at))))
        self._delivered_at = time.perf_counter()

    def _report_refused(self, update: Any, error: str) -> None:
        """Publish a dead letter for a model that must not be loaded. Called by the thread that follows promotions."""
        record = Record(update.topic, update.partition, update.offset, update.key, update.value)
        send_dead_letter(self._dead_letters, record, error, "scorer: load model")
        self._dead_letters.flush()
        DEAD_LETTERS.labels("scorer").inc()

    @cached_property
    def _dead_letters(self) -> ConfirmedProducer:
        """Producer of the thread that follows promotions, opened when it is first needed.

        Opening one for each refused model would delay promotions.
        """
        return ConfirmedProducer(self._settings)


def _by_class(model: BundleClassifier, probabilities: Matrix) -> dict[str, float]:
    return {label: round(float(p), 4) for label, p in zip(model.labels, probabilities, strict=True)}


def run(settings: Settings) -> None:
    """Score the stream until SIGTERM; see `stream_processors.runtime.processor.run` for its end."""
    options = settings.scorer
    # The mixture's products are small, and threads of a BLAS spin while a fit has the other cores.
    threadpool_limits(1, user_api="blas")
    processor.run(
        "scorer",
        settings,
        [EVENTS],
        Scorer(settings),
        member=options.group_instance_id,
        batch=options.batch,
        max_wait=options.max_wait,
    )
