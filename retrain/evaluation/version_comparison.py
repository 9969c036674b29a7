"""Comparison of two registered versions: what the registry records, and their results on events that neither learnt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from driftloop.core.kafka import clients
from driftloop.core.messages import Outcome
from driftloop.core.models.bundle import BundleClassifier
from driftloop.core.models.bundle_cache import BundleCache
from driftloop.core.models.classifier import Predictions
from driftloop.core.models.registry import Registry, difference
from driftloop.core.settings import Settings
from driftloop.core.topics import OUTCOMES, name
from retrain.evaluation import gate, guards
from retrain.evaluation.guards import SignificanceLevel
from retrain.evaluation.paired_slice import Slice, fall_p_values

BATCH = 64
"""Texts scored together."""

Progress = Callable[[str], None]
"""Takes a line about the progress."""


class RecordedField(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter, a metric or a tag of both versions; "–" if one lacks it."""

    name: str
    one: str
    other: str


class GroupComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Recall of both models on one true class, or their accuracy on one segment."""

    name: str
    rows: int
    one: float
    other: float
    chance: float | None
    """Two-sided p-value of McNemar's test, adjusted for all groups (Holm). `None` if there are too few rows."""


class EventComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions of both models for the same n labelled events. Differences are the other's minus the one's."""

    rows: int
    first_position: int
    last_position: int
    accuracy: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]
    """Paired bootstrap at the level ``confidence``, as in the gate."""
    brier_gain_interval: tuple[float, float]
    """Interval of the one's Brier score minus the other's."""
    confidence: float
    only_one_right: int
    only_other_right: int
    chance: float
    """Two-sided p-value of McNemar's test: how often two equal models differ as much."""
    agreement: float
    """Share of the events that get the same label from both."""
    classes: list[GroupComparison]
    segments: list[GroupComparison]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Comparison of two versions."""

    one: str
    other: str
    written: list[RecordedField]
    """What the registry records of both."""
    events: EventComparison | None
    """`None` if no labelled event is newer than the training data of both."""
    unknown: list[str]
    """Versions whose bundle does not record their training data: every event counts as new to them."""


def compare(
    settings: Settings, one: str, other: str, newest: int, progress: Progress = lambda line: None
) -> Comparison:
    """Compare two versions.

    Args:
        settings: Settings of the stream.
        one: First version.
        other: Second version.
        newest: Largest number of labelled events to compare on.
        progress: Called with a line after each batch.

    Raises:
        BundleError: A version does not exist, or its bundle must not be loaded.
        DriftloopError: The registry or the broker does not answer.
    """
    registry = Registry(settings, make=False)
    described = [registry.describe(version) for version in (one, other)]
    cache = BundleCache(settings)
    first = cache.fetch(one, described[0].get("digest", ""), None)
    second = cache.fetch(other, described[1].get("digest", ""), first.encoder)
    rows = _labelled_after(settings, max(first.trained_until, second.trained_until))[-newest:]
    chosen = settings.retrain
    return Comparison(
        one=one,
        other=other,
        written=[RecordedField(name=field, one=mine, other=yours) for field, mine, yours in difference(*described)],
        events=_compare_on_events(rows, first, second, chosen.confidence, chosen.seed, progress) if rows else None,
        unknown=[model.version for model in (first, second) if not model.trained_until],
    )


def _labelled_after(settings: Settings, until: float) -> list[Outcome]:
    """Return the labelled events that occurred after ``until``, each once, in order of occurrence."""
    found: dict[str, Outcome] = {}
    for outcome in clients.read_all(settings, name(settings, OUTCOMES), Outcome):
        if outcome.occurred_at > until:
            found.setdefault(outcome.event_id, outcome)
    return sorted(found.values(), key=lambda outcome: outcome.occurred_at)


def _compare_on_events(
    rows: Sequence[Outcome],
    one: BundleClassifier,
    other: BundleClassifier,
    confidence: float,
    seed: int,
    progress: Progress,
) -> EventComparison:
    ones, others = _predict(rows, one, other, progress)
    truth = [row.label for row in rows]
    segments = [row.segment for row in rows] if any(row.segment for row in rows) else []
    forward, backward = Slice(truth, ones, others, segments), Slice(truth, others, ones, segments)
    verdict = gate.compare(truth, ones, others, confidence=confidence, seed=seed)
    old, new = forward.correctness()
    positions = [row.position for row in rows]
    level = SignificanceLevel(seed=seed)
    return EventComparison(
        rows=len(rows),
        first_position=positions[0],
        last_position=positions[-1],
        accuracy=(verdict.champion_accuracy, verdict.challenger_accuracy),
        gain=verdict.challenger_accuracy - verdict.champion_accuracy,
        gain_interval=(verdict.low, verdict.high),
        brier_gain_interval=(verdict.brier_low, verdict.brier_high),
        confidence=confidence,
        only_one_right=int((old > new).sum()),
        only_other_right=int((new > old).sum()),
        chance=_two_sided(*(float(fall_p_values(gap[:, None], seed)[0]) for gap in (new - old, old - new))),
        agreement=float(np.mean([a == b for a, b in zip(ones.labels, others.labels, strict=True)])),
        classes=_compare_groups(forward, backward, truth, level),
        segments=_compare_groups(forward, backward, segments, level),
    )


def _predict(
    rows: Sequence[Outcome], one: BundleClassifier, other: BundleClassifier, progress: Progress
) -> tuple[Predictions, Predictions]:
    """Return both models' predictions; an encoder that they share embeds each text once."""
    parts: tuple[list[Predictions], list[Predictions]] = ([], [])
    shared = bool(one.head and other.head) and one.encoder.digest == other.encoder.digest
    for start in range(0, len(rows), BATCH):
        texts = [row.text for row in rows[start : start + BATCH]]
        parts[0].append(one.predict(texts))
        parts[1].append(other.predict(texts, parts[0][-1].embeddings if shared else None))
        progress(f"{min(start + BATCH, len(rows))} of {len(rows)} labelled events scored")
    return _concatenate(parts[0]), _concatenate(parts[1])


def _concatenate(parts: Sequence[Predictions]) -> Predictions:
    return Predictions(
        classes=parts[0].classes,
        probabilities=np.vstack([part.probabilities for part in parts]),
        embeddings=np.vstack([part.embeddings for part in parts]),
        route=parts[0].route,
        cost_ms=sum(part.cost_ms for part in parts),
    )


def _compare_groups(
    forward: Slice, backward: Slice, names: Sequence[str], level: SignificanceLevel
) -> list[GroupComparison]:
    """Return both models by group: the gate's one-sided comparison in both directions."""
    losses, gains = (guards.compare_groups(rows, names, level) for rows in (forward, backward))
    return [
        GroupComparison(
            name=loss.name,
            rows=loss.rows,
            one=loss.champion,
            other=loss.challenger,
            chance=_two_sided(loss.chance, gain.chance) if loss.told else None,
        )
        for loss, gain in zip(losses, gains, strict=True)
    ]


def _two_sided(low: float, high: float) -> float:
    return min(1.0, 2 * min(low, high))
