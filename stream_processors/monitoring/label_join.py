"""Predictions meet their labels, whichever comes first."""

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
    """What a batch of predictions and labels amounts to."""

    outcomes: list[Outcome]
    parked: dict[str, bytes]
    """Labels whose prediction is not there yet."""
    unparked: list[str]
    """Event ids whose parked label has been used."""


def join(store: OnlineStore, predictions: dict[str, Prediction], labels: dict[str, Label]) -> Joined:
    """Join a batch with itself and with what the store holds; an event that is joined already is not joined again.

    The scorer stores a prediction before it publishes it, so a label that finds none in the store can be parked:
    the prediction's message is still to come.
    """
    done = store.joined([*labels, *predictions])
    wanted = [event_id for event_id in labels if event_id not in done and event_id not in predictions]
    found = dict(predictions)
    found |= _read(Prediction, wanted, store.predictions(wanted))
    alone = [event_id for event_id in predictions if event_id not in labels and event_id not in done]
    late = _read(Label, alone, store.parked_labels(alone))
    outcomes: list[Outcome] = []
    parked: dict[str, bytes] = {}
    for event_id, label in {**labels, **late}.items():
        if event_id in done:
            continue
        if event_id in found:
            outcomes.append(outcome(found[event_id], label))
        else:
            parked[event_id] = messages.encode(label)
    return Joined(outcomes, parked, list(late))


def _read(kind: type[M], event_ids: Sequence[str], bodies: Sequence[bytes | None]) -> dict[str, M]:
    """What the store holds, by event id. What this version cannot read is as if it were not there."""
    found = {}
    for event_id, body in zip(event_ids, bodies, strict=True):
        with suppress(ValueError):
            if body is not None:
                found[event_id] = messages.decode(kind, body)
    return found


def outcome(prediction: Prediction, label: Label) -> Outcome:
    """A prediction and its label as one line of the training log."""
    return Outcome(
        event_id=prediction.event_id,
        text=prediction.text,
        segment=prediction.segment,
        occurred_at=prediction.occurred_at,
        position=prediction.position,
        predicted=prediction.label,
        confidence=max(prediction.probabilities.values(), default=0.0),
        label=label.label,
        correct=prediction.label == label.label,
        model_version=prediction.model_version,
        latency_ms=prediction.latency_ms,
        labelled_at=label.labelled_at,
        in_sample=prediction.in_sample,
        probabilities=prediction.probabilities,
        annotator=label.annotator,
        route=prediction.route,
    )
