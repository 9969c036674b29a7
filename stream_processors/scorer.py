"""Where an event is scored: events in, predictions out, nothing lost between."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from opentelemetry.trace import Span
from prometheus_client import Counter, Histogram

from driftloop import messages, trace
from driftloop.champion import Champion
from driftloop.classifiers.base import Matrix
from driftloop.classifiers.bundle import BundleClassifier
from driftloop.kafka import Outbox
from driftloop.messages import Event, Prediction
from driftloop.metrics import DEAD_LETTERS
from driftloop.settings import Settings
from driftloop.store import Store
from driftloop.topics import EVENTS, PREDICTIONS
from stream_processors import batches
from stream_processors.answers import Answers
from stream_processors.records import Record, bury

AHEAD = 86_400.0
"""Seconds that a producer's clock may be ahead. An event from further in the future would, once learnt from, make every
later one look like a part of the training data."""

PREDICTED = Counter("driftloop_predictions", "Predictions by the version that made them.", ["version"])
AGE = Histogram(
    "driftloop_event_age_seconds",
    "Age of an event, since it occurred, when its prediction is safe.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)


class Scorer:
    """Scores batches of raw events with the champion.

    For each batch: decode, classify, store by event id in Redis (the first one wins), publish, wait for the
    broker. What cannot be decoded, is too long, comes from the future, or breaks the model goes to `dead-letters`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._champion = Champion(settings, self._refused)

    def open(self) -> None:
        """Connect to Redis and Kafka, follow the promotions, and wait for the first."""
        store = Store(self._settings)
        store.check()
        self._answers = Answers(self._settings, store)
        self._answers.forgotten()
        self._outbox = Outbox(self._settings)
        self._champion.start()
        self._champion.current()

    def close(self) -> None:
        """Stop waiting for a first model."""
        self._champion.close()

    def handle(self, records: Sequence[Record]) -> int:
        """Score a batch; returns, with the number of its dead letters, when Redis and the broker have everything."""
        model = self._champion.current()
        self._dead = 0
        started, began = time.perf_counter(), time.time_ns()
        decoded = self._decode(records)
        scored = self._score(model, decoded)
        if scored:
            predictions, embeddings = self._predictions(model, scored, started)
            bodies = {p.event_id: messages.encode(p) for p in predictions}
            spans = self._spans(decoded, bodies, began)
            headers = {event_id: trace.carried(span) for event_id, span in spans.items()}
            traces = {event_id: value for event_id, carried in headers.items() for _, value in carried}
            said = self._answers.keep(bodies, embeddings, model.encoder.digest, traces)
            for event_id, body in said.items():
                self._outbox.put(PREDICTIONS.name, event_id, body, headers.get(event_id, ()))
        self._outbox.flush()
        if scored:
            trace.finish(spans.values())
            self._answers.sent(said)
            PREDICTED.labels(model.version).inc(len(scored))
            now = time.time()
            for event, _, _ in scored:
                AGE.observe(max(0.0, now - event.occurred_at))
        self._sit_out(len(records), started)
        return self._dead

    def _decode(self, records: Sequence[Record]) -> dict[str, tuple[Record, Event]]:
        """The events by id; the rest is buried."""
        found: dict[str, tuple[Record, Event]] = {}
        for record in records:
            value = record.value or b""
            if len(value) > self._settings.scorer.max_bytes:
                error = f"{len(value)} bytes are more than the {self._settings.scorer.max_bytes} that are scored"
                self._bury(record, error)
                continue
            try:
                event = messages.decode(Event, value)
            except ValueError as error:
                self._bury(record, f"not an event: {error}")
                continue
            if event.occurred_at > time.time() + AHEAD:
                self._bury(record, f"it occurs in the future, at {event.occurred_at:.0f}: set the producer's clock")
                continue
            found.setdefault(event.event_id, (record, event))
        return found

    def _score(
        self, model: BundleClassifier, decoded: dict[str, tuple[Record, Event]]
    ) -> list[tuple[Event, Matrix, Matrix]]:
        """Each event with its probabilities (k,) and embedding (d,); what breaks the model alone is buried."""
        pairs = list(decoded.values())
        if not pairs:
            return []
        try:
            answer = model.predict([event.text for _, event in pairs])
            return [(event, answer.probabilities[i], answer.embeddings[i]) for i, (_, event) in enumerate(pairs)]
        except Exception as error:  # the text is a stranger's, and the model's libraries raise types of their own
            if len(pairs) == 1:
                record, _ = pairs[0]
                self._bury(record, f"the model failed on it: {error!r}"[:500])
                return []
        return [row for key, pair in decoded.items() for row in self._score(model, {key: pair})]

    def _predictions(
        self, model: BundleClassifier, scored: Sequence[tuple[Event, Matrix, Matrix]], started: float
    ) -> tuple[list[Prediction], Matrix]:
        now = time.time()
        latency = round((time.perf_counter() - started) * 1000, 3)
        route = "encoder+head" if model.head else "encoder"
        predictions = [
            Prediction(
                event_id=event.event_id,
                label=model.labels[int(probabilities.argmax())],
                probabilities={label: round(float(p), 4) for label, p in zip(model.labels, probabilities, strict=True)},
                model_version=model.version,
                route=route,
                latency_ms=latency,
                text=event.text,
                segment=event.segment,
                occurred_at=event.occurred_at,
                predicted_at=now,
                position=event.position,
                in_sample=event.occurred_at <= model.trained_until,
                encoder=model.encoder.digest[:16],
            )
            for event, probabilities, _ in scored
        ]
        return predictions, np.stack([embedding for _, _, embedding in scored])

    def _spans(
        self, decoded: dict[str, tuple[Record, Event]], scored: Iterable[str], began: int
    ) -> dict[str, Span | None]:
        """By event id, the spans of what was scored, in the traces that the events came with; none where they are off.

        They began with their batch, at ``began``, in nanoseconds since 1970.
        """
        if not trace.on():
            return {}
        return {
            event_id: trace.start("score", "consumer", record.topic, event_id, record.headers, began=began)
            for event_id, record in ((event_id, decoded[event_id][0]) for event_id in scored)
        }

    def _sit_out(self, events: int, started: float) -> None:
        """Wait for the rest of what ``events`` are to take at least."""
        time.sleep(max(0.0, events * self._settings.scorer.floor_ms / 1000 - (time.perf_counter() - started)))

    def _bury(self, record: Record, error: str) -> None:
        self._dead += 1
        bury(self._outbox, record, error, "scorer")

    def _refused(self, update: Any, error: str) -> None:
        """A model that must not be loaded; called by the thread that follows the promotions."""
        record = Record(update.topic, update.partition, update.offset, update.key, update.value)
        bury(self._letters, record, error, "scorer: load model")
        self._letters.flush()
        DEAD_LETTERS.labels("scorer").inc()

    @cached_property
    def _letters(self) -> Outbox:
        """That thread's own, opened when it is needed; one for each refusal would hold promotions up."""
        return Outbox(self._settings)


def run(settings: Settings) -> None:
    """Score the stream until SIGTERM; see `stream_processors.batches.run` for how it ends."""
    chosen = settings.scorer
    batches.run(
        "scorer", settings, [EVENTS], Scorer(settings), member=chosen.member, batch=chosen.batch, within=chosen.within
    )
