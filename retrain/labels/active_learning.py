"""Active learning: selection of the unlabelled predictions whose labels would help most."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from driftloop.core.kafka import clients
from driftloop.core.messages import DriftAlert, Message, Outcome, Prediction
from driftloop.core.models.classifier import Matrix
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import Settings
from driftloop.core.topics import DRIFT_ALERTS, OUTCOMES, PREDICTIONS, Topic, name

T = TypeVar("T")
M = TypeVar("M", bound=Message)

Values = NDArray[np.float64]

MAX_LABELLED = 1000
"""Newest labelled events that the unlabelled ones are compared with."""
CHUNK = 512
"""Rows whose similarities to all labelled rows are computed together."""
MAX_RANKED = 3000
"""Events that are ranked. Of more events, those of the greatest own worth are ranked."""
SAME_DISTANCE = 1e-3
"""Cosine distance up to which two texts count as the same. The rounding of embeddings stored in 16 bits is smaller."""
DRIFTED_WORTH = 2.0
"""Worth of an event from a segment that drifted. The worth of the others is at most 1."""


@dataclass(frozen=True)
class LabelRequest:
    """An event to be labelled."""

    event_id: str
    text: str
    segment: str
    predicted: str
    probability: float
    why: str
    """Reason for the selection."""


def select_for_labelling(settings: Settings, budget: int, newest: int = 2000) -> list[LabelRequest]:
    """Return the unlabelled predictions that are most worth labelling, best first; see `rank_for_labelling`.

    Events whose embedding is no longer in the store are left out.

    Args:
        settings: Settings of the stream.
        budget: Largest number of events to return.
        newest: Number of newest predictions to select from.
    """
    store = OnlineStore(settings)
    unlabelled = _unlabelled(settings, store, newest)
    if not unlabelled:
        return []
    encoder = unlabelled[-1].encoder
    rows, embeddings = _with_embeddings(store, [p for p in unlabelled if p.encoder == encoder], encoder)
    if not rows:
        return []
    labelled_ids = [outcome.event_id for outcome in _newest(settings, OUTCOMES, Outcome, MAX_LABELLED)]
    _, labelled = _with_embeddings(store, labelled_ids, encoder)
    alerts = _newest(settings, DRIFT_ALERTS, DriftAlert, 1)
    segments = drifted_segments(alerts[-1]) if alerts else set()
    drifted = np.array([row.segment in segments for row in rows])
    # Drift in no row, or in all of them, does not tell the rows apart.
    distinguishing = drifted if drifted.any() and not drifted.all() else None
    chosen = rank_for_labelling(_probabilities(rows), embeddings, labelled, budget, drifted=distinguishing)
    return [_label_request(rows[row], bool(drifted[row])) for row in chosen]


def rank_for_labelling(
    probabilities: NDArray[np.floating],
    embeddings: Matrix,
    labelled: Matrix,
    budget: int,
    *,
    drifted: NDArray[np.bool_] | None = None,
) -> list[int]:
    """Return the indices of the unlabelled events that are most worth labelling, best first.

    Each choice is the event that brings the labelled texts closest to all events, weighted by their worth (facility
    location, Wei, Iyer and Bilmes 2015). Its gain is the sum over all events of worth times the rise of their cosine
    similarity to the nearest labelled or chosen text. So new texts come first, outliers late, and near duplicates bring
    nothing. Exact duplicates are left out even if the budget is not used up.

    The worth of an event is the uncertainty of the model: 1 minus the margin between its two likeliest classes
    (Scheffer et al. 2001). For an event from a segment that drifted it is `DRIFTED_WORTH`. A model that the drift made
    wrong is often certain, and a choice by its uncertainty is then worse than a random one.

    The result has no randomness: ties go to the older event.

    Args:
        probabilities: Probabilities of n unlabelled events, shape (n, classes).
        embeddings: Their embeddings, shape (n, d).
        labelled: Embeddings of the labelled events, shape (m, d); m may be 0.
        budget: Largest number of indices.
        drifted: Shape (n,): True for events from a segment that drifted. `None` if no segment did.

    Raises:
        ValueError: The arguments differ in length, or the budget is negative.
    """
    n = len(probabilities)
    if len(embeddings) != n or (drifted is not None and len(drifted) != n) or budget < 0:
        raise ValueError(f"{len(embeddings)} embeddings for {n} events, and a budget of {budget}")
    worth = _uncertainty(probabilities)
    if drifted is not None:
        worth = np.where(drifted, DRIFTED_WORTH, worth)
    embeddings, labelled = _unit(embeddings), _unit(labelled)
    covered = _similarity_to_nearest(embeddings, labelled)
    rows = np.sort(np.argsort(-worth * (1 - covered), kind="stable")[:MAX_RANKED])
    worth, covered = worth[rows], covered[rows]
    similarity = np.asarray(embeddings[rows] @ embeddings[rows].T, dtype=np.float64)
    chosen: list[int] = []
    while len(chosen) < min(budget, len(rows)):
        gain = worth @ np.maximum(similarity - covered[:, None], 0.0)
        best = int(np.where(1 - covered > SAME_DISTANCE, gain, 0.0).argmax())
        if 1 - covered[best] <= SAME_DISTANCE:
            break
        chosen.append(best)
        covered = np.maximum(covered, similarity[best])
        covered[best] = 1.0
    return [int(rows[number]) for number in chosen]


def _unlabelled(settings: Settings, store: OnlineStore, newest: int) -> list[Prediction]:
    """Return the newest predictions that have an embedding and no label, oldest first."""
    predictions = {p.event_id: p for p in _newest(settings, PREDICTIONS, Prediction, newest)}
    labelled = store.joined(list(predictions))
    return [p for event_id, p in predictions.items() if event_id not in labelled and p.encoder]


def _probabilities(predictions: Sequence[Prediction]) -> Values:
    """Return the probabilities of all classes that occur, shape (n, classes)."""
    classes = sorted({name for prediction in predictions for name in prediction.probabilities})
    return np.array([[prediction.probabilities.get(name, 0.0) for name in classes] for prediction in predictions])


def drifted_segments(alert: DriftAlert) -> set[str]:
    """Return the segments whose share has risen, by the evidence of an alert."""
    found, moved = set(), alert.evidence.get("moved")
    for one in moved if isinstance(moved, list) else ():
        with suppress(TypeError, AttributeError, KeyError):  # the evidence of a single detector has another form
            if one["what"] == "segment" and one["after"] > one["before"]:
                found.add(str(one["name"]))
    return found


def _label_request(prediction: Prediction, drifted: bool) -> LabelRequest:
    probability = prediction.confidence
    why = f"segment {prediction.segment} drifted" if drifted else f"new or uncertain ({probability:.2f})"
    return LabelRequest(
        prediction.event_id, prediction.text, prediction.segment, prediction.label, round(probability, 4), why
    )


def _with_embeddings(store: OnlineStore, items: Sequence[T], encoder: str) -> tuple[list[T], Matrix]:
    """Return the predictions (or ids) whose embedding is in the store, and the embeddings."""
    ids = [item.event_id if isinstance(item, Prediction) else str(item) for item in items]
    vectors = store.embeddings(ids, encoder) if ids else []
    kept = [(item, vector) for item, vector in zip(items, vectors, strict=True) if vector is not None]
    if not kept:
        return [], np.zeros((0, 0), dtype=np.float32)
    return [item for item, _ in kept], np.stack([vector for _, vector in kept])


def _newest(settings: Settings, topic: Topic, kind: type[M], most: int) -> list[M]:
    """Return the newest messages of a topic, at most ``most``, in order of arrival."""
    full = name(settings, topic)
    with clients.assigned_consumer(settings, full) as client:
        ends = client.end_offsets(list(client.assignment()))
    start = {partition.partition: max(end - most, 0) for partition, end in ends.items()}
    return clients.read_all(settings, full, kind, start)[-most:]


def _uncertainty(probabilities: NDArray[np.floating]) -> Values:
    """Return the uncertainty, shape (n,): 1 if the two likeliest classes are equally likely, near 0 if one is certain.

    It is never quite 0: an event of which a stale model is certain may still be worth a label if it is new.
    """
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    top = np.partition(np.asarray(probabilities, dtype=np.float64), -2, axis=1)[:, -2:]
    return np.asarray(np.maximum(1 - (top[:, 1] - top[:, 0]), 1e-3))


def _unit(rows: Matrix) -> Matrix:
    """Return the rows (n, d), each scaled to length 1; a row of zeros stays."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)) if len(rows) else rows


def _similarity_to_nearest(embeddings: Matrix, labelled: Matrix) -> Values:
    """Return the cosine similarity to the nearest labelled row, shape (n,); 0 without one or if it is negative."""
    if not len(labelled):
        return np.zeros(len(embeddings))
    nearest = [
        (embeddings[start : start + CHUNK] @ labelled.T).max(axis=1) for start in range(0, len(embeddings), CHUNK)
    ]
    return np.asarray(np.maximum(np.concatenate([np.zeros(0), *nearest]), 0.0))
