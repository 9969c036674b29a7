"""History scored with another version of the model: what would have been said, beside what was.

Topics are read outside any consumer group, and nothing is written to them or to the store.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec
from kafka import TopicPartition

from driftloop.core import messages
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.messages import Event, Label, Prediction
from driftloop.core.models.bundle import BundleClassifier
from driftloop.core.models.bundle_cache import BundleCache
from driftloop.core.models.classifier import Predictions
from driftloop.core.models.registry import Registry
from driftloop.core.settings import Settings
from driftloop.core.topics import EVENTS, LABELS, PREDICTIONS, name

EXAMPLES = 10
"""Changed answers that are shown, those with a label first."""
SHOWN_TEXT = 300
"""Characters of an example's text."""
SKEW = 60.0
"""Seconds that two clocks may be apart: how much earlier than the first event its prediction is sought."""

Say = Callable[[str], None]


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Offsets of one partition of `events`, from `start` up to `end`, not included."""

    partition: int
    start: int
    end: int


class LabelChange(msgspec.Struct, frozen=True, kw_only=True):
    """So many events were given one label, and would be given another."""

    was: str
    becomes: str
    events: int


class SegmentChange(msgspec.Struct, frozen=True, kw_only=True):
    """What would change in one segment; an empty name stands for events without one."""

    name: str
    compared: int
    changed: int
    labelled: int
    accuracy_was: float | None
    accuracy: float | None
    """On the `labelled` events; None where there are none."""


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """An event whose answer would change."""

    event_id: str
    text: str
    was: str
    becomes: str
    label: str
    """Empty where none is known."""


class Backfill(msgspec.Struct, frozen=True, kw_only=True):
    """What a version would have said."""

    version: str
    spans: list[Span]
    events: int
    """Scored, each id once."""
    unscored: int
    """Messages that are no event, are too long, or that the model fails on."""
    compared: int
    """Events that have a prediction."""
    answered_by: dict[str, int]
    """How many of these predictions each version made."""
    changed: int
    moves: list[LabelChange]
    """Most frequent first."""
    segments: list[SegmentChange]
    labelled: int
    """Of the compared events those with a label that neither model was trained on: the accuracy is theirs."""
    trained_on: int
    """Labelled events left out because one of the models was trained on them."""
    accuracy_was: float | None
    accuracy: float | None
    examples: list[Example]


@dataclass(frozen=True)
class OffsetSelection:
    """Which events: offsets of each partition; None as the start is the first that is kept, as the end the last."""

    start: int | None
    end: int | None = None
    partition: int | None = None


@dataclass(frozen=True)
class _Said:
    label: str
    segment: str
    in_sample: bool


@dataclass
class _Tally:
    """What has been compared so far."""

    said: dict[str, _Said] = field(default_factory=dict)
    unscored: int = 0
    first_at: float = float("inf")
    """Unix seconds at which the broker got the first of the events."""


def backfill(
    settings: Settings, version: str, wanted: OffsetSelection, out: Path | None = None, say: Say = lambda line: None
) -> Backfill:
    """Score the events with ``version`` and compare; ``out`` gets a line of JSON for each prediction.

    Raises:
        DriftloopError: there is no such version, offset or partition, the bundle must not be loaded, or ``out`` exists.
    """
    spans = _spans(settings, wanted)
    digest = Registry(settings, make=False).describe(version).get("digest", "")
    model = BundleCache(settings).fetch(version, digest, None)
    tally = _Tally()
    with _lines(out) as file:
        _score(settings, model, spans, tally, file, say)
        say("reading what was said and what is known")
        then = tally.first_at - SKEW
        predictions = _predictions(settings, tally.said, then) if tally.said else {}
        labels = _labels(settings, predictions, then) if predictions else {}
    return _result(version, spans, tally, predictions, labels)


def _spans(settings: Settings, wanted: OffsetSelection) -> list[Span]:
    """The offsets to be read.

    Raises:
        DriftloopError: they are gone, not there yet, or of no partition.
    """
    topic = name(settings, EVENTS)
    bounds = clients.offset_range(settings, topic)
    if wanted.partition is not None:
        bounds = {tp: bound for tp, bound in bounds.items() if tp.partition == wanted.partition}
    if not bounds:
        what = topic if wanted.partition is None else f"partition {wanted.partition} of {topic}"
        raise DriftloopError(f"There is no {what} at {settings.kafka}: correct --partition, or name another broker.")
    spans = []
    for tp, (begin, end) in bounds.items():
        start = begin if wanted.start is None else wanted.start
        if start < begin:
            raise DriftloopError(
                f"Offset {start} of {topic}, partition {tp.partition}, is gone, the first that is kept is {begin}: "
                f"give --from {begin} or later, or --from earliest."
            )
        upto = end if wanted.end is None else min(wanted.end, end)
        if start < upto:
            spans.append(Span(partition=tp.partition, start=start, end=upto))
    if not spans:
        ends = ", ".join(f"{end} (partition {tp.partition})" for tp, (_, end) in bounds.items())
        raise DriftloopError(
            f"There is no event between these offsets of {topic}, whose next one is {ends}: give a smaller --from, or "
            "a larger --to."
        )
    return spans


def _score(
    settings: Settings,
    model: BundleClassifier,
    spans: Sequence[Span],
    tally: _Tally,
    file: IO[bytes] | None,
    say: Say,
) -> None:
    """Score the events in batches, as the scorer does, but for what it writes."""
    topic = name(settings, EVENTS)
    start = {
        tp.partition: end for tp, (_, end) in clients.offset_range(settings, topic).items()
    }  # of the others, nothing
    start |= {span.partition: span.start for span in spans}
    ends = {TopicPartition(topic, span.partition): span.end for span in spans}
    total, done = sum(span.end - span.start for span in spans), 0
    for part in clients.records(settings, topic, start, ends):
        for first in range(0, len(part), settings.scorer.batch):
            records = part[first : first + settings.scorer.batch]
            _take(settings, model, records, tally, file)
            done += len(records)
            say(f"{done} of {total} events scored with version {model.version}")


def _take(
    settings: Settings, model: BundleClassifier, records: Sequence[Any], tally: _Tally, file: IO[bytes] | None
) -> None:
    events: dict[str, Event] = {}
    for record in records:
        value = record.value or b""
        try:
            event = messages.decode(Event, value) if len(value) <= settings.scorer.max_bytes else None
        except ValueError:
            event = None
        if event is None:
            tally.unscored += 1
        elif event.event_id not in tally.said:
            events.setdefault(event.event_id, event)
        tally.first_at = min(tally.first_at, record.timestamp / 1000)
    for event, said, row in _answers(model, list(events.values()), tally):
        label = said.classes[int(said.probabilities[row].argmax())]
        in_sample = event.occurred_at <= model.trained_until
        tally.said[event.event_id] = _Said(label, event.segment, in_sample)
        if file is not None:
            file.write(messages.encode(_prediction(model, event, said, row, label)) + b"\n")


def _answers(
    model: BundleClassifier, events: Sequence[Event], tally: _Tally
) -> Iterator[tuple[Event, Predictions, int]]:
    """Each event with the answers it is in and its row there; what breaks the model alone is counted."""
    if not events:
        return
    try:
        said = model.predict([event.text for event in events])
    except Exception:  # the text is a stranger's, and the model's libraries raise types of their own
        if len(events) == 1:
            tally.unscored += 1
            return
        for event in events:
            yield from _answers(model, [event], tally)
        return
    yield from ((event, said, row) for row, event in enumerate(events))


def _prediction(model: BundleClassifier, event: Event, said: Predictions, row: int, label: str) -> Prediction:
    return Prediction(
        event_id=event.event_id,
        label=label,
        probabilities={
            label: round(float(p), 4) for label, p in zip(said.classes, said.probabilities[row], strict=True)
        },
        model_version=model.version,
        route=said.route,
        latency_ms=round(said.cost_ms, 3),
        text=event.text,
        segment=event.segment,
        occurred_at=event.occurred_at,
        predicted_at=time.time(),
        position=event.position,
        in_sample=event.occurred_at <= model.trained_until,
    )


def _predictions(settings: Settings, said: dict[str, _Said], then: float) -> dict[str, Prediction]:
    """The first prediction of each event, read from where those of the time ``then`` are."""
    topic = name(settings, PREDICTIONS)
    found: dict[str, Prediction] = {}
    for part in clients.records(settings, topic, clients.offsets_since(settings, topic, then)):
        for record in part:
            with suppress(ValueError):
                one = messages.decode(Prediction, record.value or b"")
                if one.event_id in said and one.event_id not in found:
                    found[one.event_id] = msgspec.structs.replace(one, text=one.text[:SHOWN_TEXT], probabilities={})
    return found


def _labels(settings: Settings, predictions: dict[str, Prediction], then: float) -> dict[str, str]:
    """The first label of each event, or a person's word on the prediction, the newest, where there is one."""
    topic = name(settings, LABELS)
    found: dict[str, str] = {}
    for part in clients.records(settings, topic, clients.offsets_since(settings, topic, then)):
        for record in part:
            with suppress(ValueError):
                one = messages.decode(Label, record.value or b"")
                if one.event_id in predictions and (one.feedback or one.event_id not in found):
                    found[one.event_id] = one.label
    return found


def _result(
    version: str, spans: list[Span], tally: _Tally, predictions: dict[str, Prediction], labels: dict[str, str]
) -> Backfill:
    changed = [key for key, old in predictions.items() if old.label != tally.said[key].label]
    moves = Counter((predictions[key].label, tally.said[key].label) for key in changed)
    trained_on = {key for key in labels if tally.said[key].in_sample or predictions[key].in_sample}
    counted = labels.keys() - trained_on
    by_segment: dict[str, list[str]] = defaultdict(list)
    for key in predictions:
        by_segment[tally.said[key].segment].append(key)

    def part(segment: str, keys: Sequence[str]) -> SegmentChange:
        known = [key for key in keys if key in counted]
        return SegmentChange(
            name=segment,
            compared=len(keys),
            changed=sum(predictions[key].label != tally.said[key].label for key in keys),
            labelled=len(known),
            accuracy_was=_share(predictions[key].label == labels[key] for key in known),
            accuracy=_share(tally.said[key].label == labels[key] for key in known),
        )

    whole = part("", list(predictions))
    return Backfill(
        version=version,
        spans=spans,
        events=len(tally.said),
        unscored=tally.unscored,
        compared=whole.compared,
        answered_by=dict(Counter(old.model_version for old in predictions.values())),
        changed=whole.changed,
        moves=[LabelChange(was=was, becomes=becomes, events=n) for (was, becomes), n in moves.most_common()],
        segments=[part(segment, keys) for segment, keys in sorted(by_segment.items())],
        labelled=whole.labelled,
        trained_on=len(trained_on),
        accuracy_was=whole.accuracy_was,
        accuracy=whole.accuracy,
        examples=[
            Example(
                event_id=key,
                text=predictions[key].text,
                was=predictions[key].label,
                becomes=tally.said[key].label,
                label=labels.get(key, ""),
            )
            for key in sorted(changed, key=lambda key: key not in labels)[:EXAMPLES]
        ],
    )


def _share(right: Iterator[bool] | Any) -> float | None:
    values = list(right)
    return round(sum(values) / len(values), 4) if values else None


@contextmanager
def _lines(out: Path | None) -> Iterator[IO[bytes] | None]:
    """The file ``out``, which gets its name when all is written; what is left half-way goes.

    Raises:
        DriftloopError: it exists, or cannot be written.
    """
    if out is None:
        yield None
        return
    if out.exists():
        raise DriftloopError(f"{out} is there already: choose another file, nothing is overwritten.")
    draft = out.with_name(f"{out.name}.partial")
    try:
        with draft.open("xb") as file:
            yield file
        draft.rename(out)
    except OSError as error:
        raise DriftloopError(f"{out} cannot be written ({error.strerror}): make room, or choose another.") from error
    finally:
        with suppress(OSError):
            draft.unlink()
