"""Where an event is scored: events in, predictions out, nothing lost between."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from opentelemetry.trace import Span
from prometheus_client import Counter, Histogram

from driftloop.core import messages
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import Event, Prediction
from driftloop.core.metrics import DEAD_LETTERS
from driftloop.core.models.bundle import BundleClassifier
from driftloop.core.models.champion_follower import ChampionFollower
from driftloop.core.observability import tracing
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import Settings
from driftloop.core.topics import EVENTS, PREDICTIONS
from stream_processors.runtime import processor
from stream_processors.runtime.dead_letters import Record, send_dead_letter
from stream_processors.runtime.pipeline import Step
from stream_processors.scoring.cascade_router import Answer, CascadeRouter, PendingAnswers
from stream_processors.scoring.prediction_store import PredictionStore

AHEAD = 86_400.0
"""Seconds that a producer's clock may be ahead. An event from further in the future would, once learnt from, make every
later one look like a part of the training data."""

Scored = tuple[Event, Answer]

PREDICTED = Counter("driftloop_predictions", "Predictions by the version that made them.", ["version"])
AGE = Histogram(
    "driftloop_event_age_seconds",
    "Age of an event, since it occurred, when its prediction is safe.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)


@dataclass
class Batch:
    """What is known of a batch on its way from step to step."""

    size: int
    """Messages in it."""
    model: BundleClassifier
    started: float = field(default_factory=time.perf_counter)
    began: int = field(default_factory=time.time_ns)
    """When it was taken, in nanoseconds since 1970."""
    events: dict[str, tuple[Record, Event]] = field(default_factory=dict)
    """By event id, what is to be scored."""
    asked: PendingAnswers | None = None
    """What the model was asked for ``events``; None where it could not be."""
    dead: list[tuple[Record, str]] = field(default_factory=list)
    """What cannot be scored, and why."""
    scored: list[Scored] = field(default_factory=list)


class Scorer:
    """Scores batches of raw events with the champion, in three steps.

    For each batch: decode and ask the model; take its answers; store them by event id in Redis (the first one wins),
    publish them, and wait for the broker. What cannot be decoded, is too long, comes from the future, or breaks the
    model goes to `dead-letters`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._champion = ChampionFollower(settings, self._refused)
        self._stages = CascadeRouter(settings.scorer.cascade)
        self._delivered = 0.0
        """When the batch before this one was through."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """One batch is read while the one before it is scored, and the one before that is delivered."""
        return (self.read, self.score, self.deliver)

    def open(self) -> None:
        """Connect to Redis and Kafka, follow the promotions, and wait for the first."""
        store = OnlineStore(self._settings)
        store.check()
        self._answers = PredictionStore(self._settings, store)
        self._answers.detect_flush()
        self._outbox = ConfirmedProducer(self._settings)
        self._champion.start()
        self._champion.current()

    def close(self) -> None:
        """Stop waiting for a first model."""
        self._champion.close()

    def read(self, records: Sequence[Record]) -> Batch:
        """Decode a batch, and ask the model for its texts."""
        batch = Batch(len(records), self._champion.current())
        for record in records:
            self._decode(record, batch)
        with suppress(Exception):  # what breaks the model is found when each is scored alone
            batch.asked = self._ask(batch, batch.events)
        return batch

    def score(self, batch: Batch) -> Batch:
        """Take the model's answers."""
        batch.scored = self._score(batch, batch.events, batch.asked)
        return batch

    def deliver(self, batch: Batch) -> int:
        """Store and publish; returns, with the number of dead letters, when Redis and the broker have everything."""
        for record, error in batch.dead:
            send_dead_letter(self._outbox, record, error, "scorer")
        if batch.scored:
            predictions = self._predictions(batch)
            embeddings = {event.event_id: said.embedding for event, said in batch.scored}
            bodies = {p.event_id: messages.encode(p) for p in predictions}
            spans = self._spans(batch, bodies)
            headers = {event_id: tracing.inject_headers(span) for event_id, span in spans.items()}
            traces = {event_id: value for event_id, carried in headers.items() for _, value in carried}
            said = self._answers.save_first(bodies, embeddings, batch.model.encoder.digest, traces)
            for event_id, body in said.items():
                self._outbox.put(PREDICTIONS.name, event_id, body, headers.get(event_id, ()))
        self._outbox.flush()
        if batch.scored:
            tracing.finish(spans.values())
            self._answers.confirm(said)
            PREDICTED.labels(batch.model.version).inc(len(batch.scored))
            now = time.time()
            for event, _ in batch.scored:
                AGE.observe(max(0.0, now - event.occurred_at))
        self._sit_out(batch)
        return len(batch.dead)

    def _decode(self, record: Record, batch: Batch) -> None:
        """Put a message's event into the batch, or the message to its dead."""
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
        if event.occurred_at > time.time() + AHEAD:
            future = f"it occurs in the future, at {event.occurred_at:.0f}: set the producer's clock"
            batch.dead.append((record, future))
            return
        batch.events.setdefault(event.event_id, (record, event))

    def _ask(self, batch: Batch, events: dict[str, tuple[Record, Event]]) -> PendingAnswers:
        return self._stages.begin(
            batch.model,
            list(events),
            [event.text for _, event in events.values()],
            full=batch.size >= self._settings.scorer.batch,
            drifting=self._champion.drifting,
        )

    def _score(
        self, batch: Batch, events: dict[str, tuple[Record, Event]], asked: PendingAnswers | None = None
    ) -> list[Scored]:
        """The events' answers; where the model breaks, each is tried alone, and what breaks it then is dead."""
        pairs = list(events.values())
        if not pairs:
            return []
        try:
            answers = self._stages.finish(batch.model, asked or self._ask(batch, events))
            return [(event, answer) for (_, event), answer in zip(pairs, answers, strict=True)]
        except Exception as error:  # the text is a stranger's, and the model's libraries raise types of their own
            if len(pairs) == 1:
                record, _ = pairs[0]
                batch.dead.append((record, f"the model failed on it: {error!r}"[:500]))
                return []
        return [row for key, pair in events.items() for row in self._score(batch, {key: pair})]

    def _predictions(self, batch: Batch) -> list[Prediction]:
        """What is said of each event."""
        model = batch.model
        now = time.time()
        latency = round((time.perf_counter() - batch.started) * 1000, 3)
        encoder = model.encoder.digest[:16]
        return [
            Prediction(
                event_id=event.event_id,
                label=model.labels[int(said.probabilities.argmax())],
                probabilities={
                    label: round(float(p), 4) for label, p in zip(model.labels, said.probabilities, strict=True)
                },
                model_version=model.version,
                route=said.route,
                latency_ms=latency,
                text=event.text,
                segment=event.segment,
                occurred_at=event.occurred_at,
                predicted_at=now,
                position=event.position,
                in_sample=event.occurred_at <= model.trained_until,
                encoder="" if said.embedding is None else encoder,
            )
            for event, said in batch.scored
        ]

    def _spans(self, batch: Batch, scored: Iterable[str]) -> dict[str, Span | None]:
        """By event id, the spans of what was scored, in the traces that the events came with; none where they are off.

        They began with their batch.
        """
        if not tracing.enabled():
            return {}
        return {
            event_id: tracing.start("score", "consumer", record.topic, event_id, record.headers, began=batch.began)
            for event_id, record in ((event_id, batch.events[event_id][0]) for event_id in scored)
        }

    def _sit_out(self, batch: Batch) -> None:
        """Wait for the rest of what the batch's messages are to take at least."""
        floor = batch.size * self._settings.scorer.floor_ms / 1000
        time.sleep(max(0.0, floor - (time.perf_counter() - max(batch.started, self._delivered))))
        self._delivered = time.perf_counter()

    def _refused(self, update: Any, error: str) -> None:
        """A model that must not be loaded; called by the thread that follows the promotions."""
        record = Record(update.topic, update.partition, update.offset, update.key, update.value)
        send_dead_letter(self._letters, record, error, "scorer: load model")
        self._letters.flush()
        DEAD_LETTERS.labels("scorer").inc()

    @cached_property
    def _letters(self) -> ConfirmedProducer:
        """That thread's own, opened when it is needed; one for each refusal would hold promotions up."""
        return ConfirmedProducer(self._settings)


def run(settings: Settings) -> None:
    """Score the stream until SIGTERM; see `stream_processors.runtime.processor.run` for how it ends."""
    chosen = settings.scorer
    processor.run(
        "scorer", settings, [EVENTS], Scorer(settings), member=chosen.member, batch=chosen.batch, within=chosen.within
    )
