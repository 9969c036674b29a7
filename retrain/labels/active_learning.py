"""Whom to ask what: the newest predicted events without a label that a person's answer would be worth most for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from driftloop.core.kafka import clients
from driftloop.core.messages import DriftAlert, Message, Outcome, Prediction
from driftloop.core.models.classifier import Matrix
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import Settings
from driftloop.core.topics import DRIFT_ALERTS, OUTCOMES, PREDICTIONS, Topic, name
from retrain.labels.labelling import rank_for_labelling

T = TypeVar("T")
M = TypeVar("M", bound=Message)

LABELLED = 1000
"""Newest labelled events that the others are compared with."""


@dataclass(frozen=True)
class LabelRequest:
    """An event to be labelled."""

    event_id: str
    text: str
    segment: str
    predicted: str
    probability: float
    why: str


def select_for_labelling(settings: Settings, budget: int, among: int = 2000) -> list[LabelRequest]:
    """At most ``budget`` of the newest ``among`` predictions without a label, the most worth asking first.

    Worth are doubt, novelty, and the segments that the newest alert says have moved; see `rank_for_labelling`. Events
    whose embedding is not in the store any more are left out.
    """
    store = OnlineStore(settings)
    predictions = {p.event_id: p for p in _newest(settings, PREDICTIONS, Prediction, among)}
    known = store.joined(list(predictions))
    open_ = [p for event_id, p in predictions.items() if event_id not in known and p.encoder]
    if not open_:
        return []
    encoder = open_[-1].encoder
    rows, embeddings = _embedded(store, [p for p in open_ if p.encoder == encoder], encoder)
    labelled = [o.event_id for o in _newest(settings, OUTCOMES, Outcome, LABELLED)]
    _, seen = _embedded(store, labelled, encoder)
    if not rows:
        return []
    classes = sorted({name for p in rows for name in p.probabilities})
    probabilities = np.array([[p.probabilities.get(name, 0.0) for name in classes] for p in rows])
    alerts = _newest(settings, DRIFT_ALERTS, DriftAlert, 1)
    segments = _moved(alerts[-1]) if alerts else set()
    moved = np.array([p.segment in segments for p in rows])
    chosen = rank_for_labelling(
        probabilities, embeddings, seen, budget, moved=moved if moved.any() and not moved.all() else None
    )
    return [_question(rows[row], bool(moved[row])) for row in chosen]


def _question(prediction: Prediction, moved: bool) -> LabelRequest:
    probability = max(prediction.probabilities.values(), default=0.0)
    why = f"its segment {prediction.segment} has moved" if moved else f"new, or in doubt ({probability:.2f})"
    return LabelRequest(
        prediction.event_id, prediction.text, prediction.segment, prediction.label, round(probability, 4), why
    )


def _moved(alert: DriftAlert) -> set[str]:
    """The segments that the alert's evidence says have risen."""
    found, moved = set(), alert.evidence.get("moved")
    for one in moved if isinstance(moved, list) else ():
        with suppress(TypeError, AttributeError, KeyError):  # a single detector's evidence is another
            if one["what"] == "segment" and one["after"] > one["before"]:
                found.add(str(one["name"]))
    return found


def _embedded(store: OnlineStore, items: Sequence[T], encoder: str) -> tuple[list[T], Matrix]:
    """Those of the predictions (or ids) whose embedding is in the store, and the embeddings."""
    ids = [item.event_id if isinstance(item, Prediction) else str(item) for item in items]
    vectors = store.embeddings(ids, encoder) if ids else []
    kept = [(item, vector) for item, vector in zip(items, vectors, strict=True) if vector is not None]
    if not kept:
        return [], np.zeros((0, 0), dtype=np.float32)
    return [item for item, _ in kept], np.stack([vector for _, vector in kept])


def _newest(settings: Settings, topic: Topic, kind: type[M], most: int) -> list[M]:
    """The newest messages of a topic, ``most`` of them or a few more, in order of arrival."""
    full = name(settings, topic)
    with clients.assigned_consumer(settings, full) as client:
        ends = client.end_offsets(list(client.assignment()))
    start = {partition.partition: max(end - most, 0) for partition, end in ends.items()}
    return clients.read_all(settings, full, kind, start)[-most:]
