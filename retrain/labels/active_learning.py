"""Whom to ask what: the newest predicted events without a label that a person's answer would be worth most for."""

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
"""Newest labelled events that the others are compared with."""
CHUNK = 512
"""Rows whose similarities to all labelled rows are computed at once."""
MAX_RANKED = 3000
"""Events looked at closely; of more, those most worth it by themselves."""
SAME_DISTANCE = 1e-3
"""Cosine distance up to which two texts are one: the rounding of embeddings stored in 16 bits lies below."""



@dataclass(frozen=True)
class LabelRequest:
    """An event to be labelled."""

    event_id: str
    text: str
    segment: str
    predicted: str
    probability: float
    why: str


def select_for_labelling(settings: Settings, budget: int, newest: int = 2000) -> list[LabelRequest]:
    """At most ``budget`` of the newest ``among`` predictions without a label, the most worth asking first.

    Worth are doubt, novelty, and the segments that the newest alert says have moved; see `rank_for_labelling`. Events
    whose embedding is not in the store any more are left out.
    """
    store = OnlineStore(settings)
    predictions = {p.event_id: p for p in _newest(settings, PREDICTIONS, Prediction, newest)}
    known = store.joined(list(predictions))
    open_ = [p for event_id, p in predictions.items() if event_id not in known and p.encoder]
    if not open_:
        return []
    encoder = open_[-1].encoder
    rows, embeddings = _embedded(store, [p for p in open_ if p.encoder == encoder], encoder)
    labelled = [o.event_id for o in _newest(settings, OUTCOMES, Outcome, MAX_LABELLED)]
    _, seen = _embedded(store, labelled, encoder)
    if not rows:
        return []
    classes = sorted({name for p in rows for name in p.probabilities})
    probabilities = np.array([[p.probabilities.get(name, 0.0) for name in classes] for p in rows])
    alerts = _newest(settings, DRIFT_ALERTS, DriftAlert, 1)
    segments = _moved(alerts[-1]) if alerts else set()
    moved = np.array([p.segment in segments for p in rows])
    chosen = rank_for_labelling(
        probabilities, embeddings, seen, budget, drifted=moved if moved.any() and not moved.all() else None
    )
    return [_question(rows[row], bool(moved[row])) for row in chosen]


def rank_for_labelling(
    probabilities: NDArray[np.floating],
    embeddings: Matrix,
    labelled: Matrix,
    budget: int,
    *,
    drifted: NDArray[np.bool_] | None = None,
) -> list[int]:
    """Indices of at most ``budget`` of n unlabelled events, the most worth labelling first.

    Each choice is the event that brings labelled texts closest to all that is worth knowing (facility location, Wei,
    Iyer and Bilmes 2015): the sum over all events of worth times the rise of their cosine similarity to the nearest
    labelled or chosen text. So what is new counts, outliers that stand for nothing but themselves come late, near
    duplicates bring nothing, and exact ones are left out even where the budget is not used up. An event's worth is how
    unsure the model is, 1 minus the margin between its two likeliest classes (Scheffer et al. 2001); where ``moved``,
    of shape (n,), says that it is from a segment that drifted, it is 2 whatever the model says: a model that the drift
    made wrong is often sure of it, and to ask by its doubts is then worse than to ask at random.

    ``probabilities`` has shape (n, classes), ``embeddings`` (n, d) and ``labelled`` (m, d); m may
    be 0. There is no chance in it: ties go to the older event.

    Raises:
        ValueError: the arguments are not as many, or the budget is negative.
    """
    n = len(probabilities)
    if len(embeddings) != n or (drifted is not None and len(drifted) != n) or budget < 0:
        raise ValueError(f"{len(embeddings)} embeddings for {n} events, and a budget of {budget}")
    worth = _uncertainty(probabilities)
    if drifted is not None:
        worth = np.where(drifted, 2.0, worth)
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


def _uncertainty(probabilities: NDArray[np.floating]) -> Values:
    """Shape (n,): 1 where the two likeliest classes are as likely, 0 where one is certain; never quite 0.

    An event of which a stale model is certain may still be worth a look where it is new.
    """
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    top = np.partition(np.asarray(probabilities, dtype=np.float64), -2, axis=1)[:, -2:]
    return np.asarray(np.maximum(1 - (top[:, 1] - top[:, 0]), 1e-3))


def _unit(rows: Matrix) -> Matrix:
    """The rows (n, d), each scaled to length 1; one of zeros stays."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)) if len(rows) else rows


def _similarity_to_nearest(embeddings: Matrix, labelled: Matrix) -> Values:
    """Shape (n,): cosine similarity to the nearest labelled row, 0 where there is none or it points away."""
    if not len(labelled):
        return np.zeros(len(embeddings))
    nearest = [
        (embeddings[start : start + CHUNK] @ labelled.T).max(axis=1) for start in range(0, len(embeddings), CHUNK)
    ]
    return np.asarray(np.maximum(np.concatenate([np.zeros(0), *nearest]), 0.0))
