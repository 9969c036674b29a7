"""Two registered versions side by side: what is written on them, and how both do on what neither was trained on."""

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

Say = Callable[[str], None]


class RecordedField(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter, a metric or a tag of both versions; "–" where one lacks it."""

    name: str
    one: str
    other: str


class GroupComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Both models on the events of one true class, where it is the class's recall, or of one segment."""

    name: str
    rows: int
    one: float
    other: float
    chance: float | None
    """Two-sided p-value of McNemar's test, adjusted for all groups (Holm); None where there are too few rows."""


class EventComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Both models' answers to the same n labelled events. Differences are the other's minus the one's."""

    rows: int
    first_position: int
    last_position: int
    accuracy: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]
    """Paired bootstrap at the level ``confidence``, as the gate's."""
    brier_gain_interval: tuple[float, float]
    """Of how much lower the other's Brier score is."""
    confidence: float
    only_one_right: int
    only_other_right: int
    chance: float
    """Two-sided p-value of McNemar's test: how often two equal models differ as much."""
    agreement: float
    """Share of the events that both give the same label."""
    classes: list[GroupComparison]
    segments: list[GroupComparison]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about two versions."""

    one: str
    other: str
    written: list[RecordedField]
    events: EventComparison | None
    """None where no labelled event is newer than what both were trained on."""
    unknown: list[str]
    """Those of the two whose bundle does not say what they were trained on: every event counts as new to them."""


def compare(settings: Settings, one: str, other: str, newest: int, say: Say = lambda line: None) -> Comparison:
    """Compare two versions, on at most ``newest`` labelled events.

    Raises:
        BundleError: there is no such version, or its bundle must not be loaded.
        DriftloopError: the registry or the broker does not answer.
    """
    registry = Registry(settings, make=False)
    described = [registry.describe(version) for version in (one, other)]
    shelf = BundleCache(settings)
    first = shelf.fetch(one, described[0].get("digest", ""), None)
    second = shelf.fetch(other, described[1].get("digest", ""), first.encoder)
    rows = _unseen(settings, max(first.trained_until, second.trained_until))[-newest:]
    chosen = settings.retrain
    return Comparison(
        one=one,
        other=other,
        written=[RecordedField(name=field, one=mine, other=yours) for field, mine, yours in difference(*described)],
        events=_on_events(rows, first, second, chosen.confidence, chosen.seed, say) if rows else None,
        unknown=[model.version for model in (first, second) if not model.trained_until],
    )


def _unseen(settings: Settings, until: float) -> list[Outcome]:
    """The labelled events that occurred after ``until``, each once, in their order."""
    found: dict[str, Outcome] = {}
    for outcome in clients.read_all(settings, name(settings, OUTCOMES), Outcome):
        if outcome.occurred_at > until:
            found.setdefault(outcome.event_id, outcome)
    return sorted(found.values(), key=lambda outcome: outcome.occurred_at)


def _on_events(
    rows: Sequence[Outcome], one: BundleClassifier, other: BundleClassifier, confidence: float, seed: int, say: Say
) -> EventComparison:
    said, answered = _answers(rows, one, other, say)
    truth = [row.label for row in rows]
    segments = [row.segment for row in rows] if any(row.segment for row in rows) else []
    forth, back = Slice(truth, said, answered, segments), Slice(truth, answered, said, segments)
    verdict = gate.compare(truth, said, answered, confidence=confidence, seed=seed)
    old, new = forth.correctness()
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
        agreement=float(np.mean([a == b for a, b in zip(said.labels, answered.labels, strict=True)])),
        classes=_groups(forth, back, truth, level),
        segments=_groups(forth, back, segments, level),
    )


def _answers(
    rows: Sequence[Outcome], one: BundleClassifier, other: BundleClassifier, say: Say
) -> tuple[Predictions, Predictions]:
    """Both models' answers; an encoder that they share embeds each text once."""
    parts: tuple[list[Predictions], list[Predictions]] = ([], [])
    shared = bool(one.head and other.head) and one.encoder.digest == other.encoder.digest
    for start in range(0, len(rows), BATCH):
        texts = [row.text for row in rows[start : start + BATCH]]
        parts[0].append(one.predict(texts))
        parts[1].append(other.predict(texts, parts[0][-1].embeddings if shared else None))
        say(f"{min(start + BATCH, len(rows))} of {len(rows)} labelled events scored")
    return _joined(parts[0]), _joined(parts[1])


def _joined(parts: Sequence[Predictions]) -> Predictions:
    return Predictions(
        classes=parts[0].classes,
        probabilities=np.vstack([part.probabilities for part in parts]),
        embeddings=np.vstack([part.embeddings for part in parts]),
        route=parts[0].route,
        cost_ms=sum(part.cost_ms for part in parts),
    )


def _groups(forth: Slice, back: Slice, names: Sequence[str], level: SignificanceLevel) -> list[GroupComparison]:
    """Both models by group: the gate's one-sided look in both directions."""
    losses, gains = (guards.compare_groups(rows, names, level) for rows in (forth, back))
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
