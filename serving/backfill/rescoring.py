"""New predictions for past events, with a version that need not be the champion."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from driftloop.core import messages
from driftloop.core.messages import Event, Prediction
from driftloop.core.models.bundle import BundleClassifier
from driftloop.core.models.classifier import Predictions
from driftloop.core.settings import Settings


@dataclass(frozen=True)
class Rescored:
    """New prediction of one event."""

    label: str
    segment: str
    in_sample: bool
    """True if the version was trained on the event."""


class Rescorer:
    """Scores batches of records from the topic `events`, as the scorer does.

    Args:
        settings: Settings of the stream.
        model: The version.
        file: Gets each prediction as a line of JSON; `None` for no file.
    """

    def __init__(self, settings: Settings, model: BundleClassifier, file: IO[bytes] | None) -> None:
        self._longest = settings.scorer.max_bytes
        self._model = model
        self._file = file
        self.scored: dict[str, Rescored] = {}
        """New predictions by event id."""
        self.unscored = 0
        """Messages that are no event, are too long, or on which the model fails."""
        self.first_at = float("inf")
        """Unix seconds at which the broker received the first of the records."""

    def score(self, records: Sequence[Any]) -> None:
        """Score one batch of records. A repeated event is scored once."""
        events: dict[str, Event] = {}
        for record in records:
            event = self._decode(record.value or b"")
            if event is None:
                self.unscored += 1
            elif event.event_id not in self.scored:
                events.setdefault(event.event_id, event)
            self.first_at = min(self.first_at, record.timestamp / 1000)
        for event, answer, row in self._predict(list(events.values())):
            label = answer.classes[int(answer.probabilities[row].argmax())]
            in_sample = event.occurred_at <= self._model.trained_until
            self.scored[event.event_id] = Rescored(label, event.segment, in_sample)
            if self._file is not None:
                self._file.write(messages.encode(self._prediction(event, answer, row, label)) + b"\n")

    def _decode(self, value: bytes) -> Event | None:
        """Return the event of a record; `None` if it is no event or too long."""
        if len(value) > self._longest:
            return None
        try:
            return messages.decode(Event, value)
        except ValueError:
            return None

    def _predict(self, events: Sequence[Event]) -> Iterator[tuple[Event, Predictions, int]]:
        """Yield each event with its predictions and its row there. Events on which the model fails are counted."""
        if not events:
            return
        try:
            answer = self._model.predict([event.text for event in events])
        except Exception:  # the texts are untrusted, and the model's libraries raise types of their own
            if len(events) == 1:
                self.unscored += 1
                return
            for event in events:
                yield from self._predict([event])
            return
        yield from ((event, answer, row) for row, event in enumerate(events))

    def _prediction(self, event: Event, answer: Predictions, row: int, label: str) -> Prediction:
        shares = zip(answer.classes, answer.probabilities[row], strict=True)
        return Prediction(
            event_id=event.event_id,
            label=label,
            probabilities={name: round(float(share), 4) for name, share in shares},
            model_version=self._model.version,
            route=answer.route,
            latency_ms=round(answer.cost_ms, 3),
            text=event.text,
            segment=event.segment,
            occurred_at=event.occurred_at,
            predicted_at=time.time(),
            position=event.position,
            in_sample=event.occurred_at <= self._model.trained_until,
        )
