"""Comparison of new predictions with those that were made: the JSON of `driftloop backfill`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

from driftloop.core import messages
from driftloop.core.kafka import clients
from driftloop.core.messages import Label, Message, Prediction
from driftloop.core.settings import Settings
from driftloop.core.topics import LABELS, PREDICTIONS, Topic, name
from serving.backfill.rescoring import Rescored, Rescorer

EXAMPLES = 10
"""Most examples of changed predictions."""
SHOWN_TEXT = 300
"""Most characters of an example's text."""

M = TypeVar("M", bound=Message)


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Offsets of one partition of `events`, from `start` up to `end`, exclusive."""

    partition: int
    start: int
    end: int


class LabelChange(msgspec.Struct, frozen=True, kw_only=True):
    """Number of events whose prediction changes from one label to another."""

    was: str
    becomes: str
    events: int


class SegmentChange(msgspec.Struct, frozen=True, kw_only=True):
    """Differences in one segment. Events without a segment have an empty name."""

    name: str
    compared: int
    changed: int
    labelled: int
    accuracy_was: float | None
    """Accuracy of the predictions that were made; `None` without labelled events."""
    accuracy: float | None
    """Accuracy of the new predictions, on the same `labelled` events; `None` without any."""


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """An event whose prediction changes."""

    event_id: str
    text: str
    was: str
    becomes: str
    label: str
    """True label; empty if unknown."""


class Backfill(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions of a version for past events, compared with those that were made."""

    version: str
    spans: list[Span]
    events: int
    """Scored events; a repeated event counts once."""
    unscored: int
    """Messages that are no event, are too long, or on which the model fails."""
    compared: int
    """Events that have a prediction."""
    answered_by: dict[str, int]
    """Number of these predictions by the version that made them."""
    changed: int
    """Compared events whose label changes."""
    moves: list[LabelChange]
    """Changes by pair of labels, most frequent first."""
    segments: list[SegmentChange]
    labelled: int
    """Compared events with a label that neither model was trained on. The accuracies are measured on them."""
    trained_on: int
    """Labelled events that are left out because one of the models was trained on them."""
    accuracy_was: float | None
    """Accuracy of the predictions that were made; `None` without labelled events."""
    accuracy: float | None
    """Accuracy of the new predictions; `None` without labelled events."""
    examples: list[Example]
    """Changed predictions, those with a label first."""


def read_predictions(settings: Settings, wanted: Container[str], since: float) -> dict[str, Prediction]:
    """Return the first prediction of each event, by its id.

    Args:
        settings: Settings of the stream.
        wanted: Ids of the events.
        since: Unix seconds from which on the topic is read.
    """
    found: dict[str, Prediction] = {}
    for prediction in _messages(settings, PREDICTIONS, Prediction, since):
        if prediction.event_id in wanted and prediction.event_id not in found:
            short = msgspec.structs.replace(prediction, text=prediction.text[:SHOWN_TEXT], probabilities={})
            found[prediction.event_id] = short
    return found


def read_labels(settings: Settings, wanted: Container[str], since: float) -> dict[str, str]:
    """Return the label of each event, by its id: the newest feedback if there is any, otherwise the first label.

    Args:
        settings: Settings of the stream.
        wanted: Ids of the events.
        since: Unix seconds from which on the topic is read.
    """
    found: dict[str, str] = {}
    for label in _messages(settings, LABELS, Label, since):
        if label.event_id in wanted and (label.feedback or label.event_id not in found):
            found[label.event_id] = label.label
    return found


def compare(
    version: str,
    spans: list[Span],
    rescorer: Rescorer,
    predictions: Mapping[str, Prediction],
    labels: Mapping[str, str],
) -> Backfill:
    """Compare new predictions with those that were made.

    Args:
        version: Version that made the new predictions.
        spans: Offsets that were read.
        rescorer: Has the new predictions.
        predictions: Predictions that were made, by event id.
        labels: Labels by event id.
    """
    scored = rescorer.scored
    changed = [key for key, old in predictions.items() if old.label != scored[key].label]
    moves = Counter((predictions[key].label, scored[key].label) for key in changed)
    trained_on = {key for key in labels if scored[key].in_sample or predictions[key].in_sample}
    measured = {key: label for key, label in labels.items() if key not in trained_on}
    by_segment: dict[str, list[str]] = defaultdict(list)
    for key in predictions:
        by_segment[scored[key].segment].append(key)
    whole = _segment_change("", list(predictions), scored, predictions, measured)
    return Backfill(
        version=version,
        spans=spans,
        events=len(scored),
        unscored=rescorer.unscored,
        compared=whole.compared,
        answered_by=dict(Counter(old.model_version for old in predictions.values())),
        changed=whole.changed,
        moves=[LabelChange(was=was, becomes=becomes, events=n) for (was, becomes), n in moves.most_common()],
        segments=[
            _segment_change(segment, keys, scored, predictions, measured)
            for segment, keys in sorted(by_segment.items())
        ],
        labelled=whole.labelled,
        trained_on=len(trained_on),
        accuracy_was=whole.accuracy_was,
        accuracy=whole.accuracy,
        examples=[
            Example(
                event_id=key,
                text=predictions[key].text,
                was=predictions[key].label,
                becomes=scored[key].label,
                label=labels.get(key, ""),
            )
            for key in sorted(changed, key=lambda key: key not in labels)[:EXAMPLES]
        ],
    )


def _segment_change(
    segment: str,
    keys: Sequence[str],
    scored: Mapping[str, Rescored],
    predictions: Mapping[str, Prediction],
    labels: Mapping[str, str],
) -> SegmentChange:
    """Return the differences in the events of one segment."""
    labelled = [key for key in keys if key in labels]
    return SegmentChange(
        name=segment,
        compared=len(keys),
        changed=sum(predictions[key].label != scored[key].label for key in keys),
        labelled=len(labelled),
        accuracy_was=_share(predictions[key].label == labels[key] for key in labelled),
        accuracy=_share(scored[key].label == labels[key] for key in labelled),
    )


def _messages(settings: Settings, topic: Topic, kind: type[M], since: float) -> Iterator[M]:
    """Yield the messages of a topic from a time on, oldest first; undecodable ones are skipped."""
    full = name(settings, topic)
    for part in clients.records(settings, full, clients.offsets_since(settings, full, since)):
        for record in part:
            with suppress(ValueError):
                yield messages.decode(kind, record.value or b"")


def _share(right: Iterable[bool]) -> float | None:
    """Return the share of true values; `None` without any."""
    values = list(right)
    return round(sum(values) / len(values), 4) if values else None
