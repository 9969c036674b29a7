"""Join of predictions with their labels, in any order of arrival."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

from driftloop.core import messages
from driftloop.core.messages import Label, Message, Outcome, Prediction
from driftloop.core.online_store import OnlineStore

M = TypeVar("M", bound=Message)


class Joined(msgspec.Struct, frozen=True):
    """Result of joining a batch of predictions and labels."""

    outcomes: list[Outcome]
    parked: dict[str, bytes]
    """Encoded labels by event id, whose prediction has not come yet."""
    unparked: list[str]
    """Ids of events whose parked label has been used."""


def join(store: OnlineStore, predictions: dict[str, Prediction], labels: dict[str, Label]) -> Joined:
    """Join a batch with itself and with the content of the store. An event is joined only once.

    The scorer stores a prediction before it publishes it. A label without a prediction in the store can therefore be
    parked: the prediction's message is still to come.

    Args:
        store: Online store of the stream.
        predictions: Predictions of the batch, by event id.
        labels: Labels of the batch, by event id.
    """
    done = store.joined([*labels, *predictions])
    unmatched_labels = [event_id for event_id in labels if event_id not in done and event_id not in predictions]
    found = dict(predictions)
    found |= _read(Prediction, unmatched_labels, store.predictions(unmatched_labels))
    unlabelled = [event_id for event_id in predictions if event_id not in labels and event_id not in done]
    unparked = _read(Label, unlabelled, store.parked_labels(unlabelled))
    outcomes: list[Outcome] = []
    parked: dict[str, bytes] = {}
    for event_id, label in {**labels, **unparked}.items():
        if event_id in done:
            continue
        if event_id in found:
            outcomes.append(outcome(found[event_id], label))
        else:
            parked[event_id] = messages.encode(label)
    return Joined(outcomes, parked, list(unparked))


def _read(kind: type[M], event_ids: Sequence[str], bodies: Sequence[bytes | None]) -> dict[str, M]:
    """Decode messages from the store, by event id; leave out those that this version cannot read."""
    found = {}
    for event_id, body in zip(event_ids, bodies, strict=True):
        with suppress(ValueError):
            if body is not None:
                found[event_id] = messages.decode(kind, body)
    return found


def outcome(prediction: Prediction, label: Label) -> Outcome:
    """Return a prediction and its label as one line of the training log.

    Args:
        prediction: Prediction of an event.
        label: Label of the same event.
    """
    return Outcome(
        event_id=prediction.event_id,
        text=prediction.text,
        segment=prediction.segment,
        occurred_at=prediction.occurred_at,
        position=prediction.position,
        predicted=prediction.label,
        confidence=prediction.confidence,
        label=label.label,
        correct=prediction.label == label.label,
        model_version=prediction.model_version,
        latency_ms=prediction.latency_ms,
        labelled_at=label.labelled_at,
        predicted_at=prediction.predicted_at,
        in_sample=prediction.in_sample,
        probabilities=prediction.probabilities,
        annotator=label.annotator,
        route=prediction.route,
        reference=prediction.reference,
    )
