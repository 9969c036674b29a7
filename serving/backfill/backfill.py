"""Backfill of past events with another version of the model.

Topics are read outside any consumer group. Nothing is written to them or to the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kafka import TopicPartition

from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.models.bundle_cache import BundleCache
from driftloop.core.models.registry import Registry
from driftloop.core.settings import Settings
from driftloop.core.topics import EVENTS, name
from serving.backfill.comparison import Backfill, Span, compare, read_labels, read_predictions
from serving.backfill.rescoring import Rescorer

CLOCK_SKEW = 60.0
"""Seconds that two clocks may differ: predictions are sought from that long before the first event on."""

Report = Callable[[str], None]
"""Receives lines about the progress."""


@dataclass(frozen=True)
class OffsetSelection:
    """Events to score, by their offsets in each partition."""

    start: int | None
    """First offset; `None` for the oldest that is kept."""
    end: int | None = None
    """Offset after the last one; `None` for the present end."""
    partition: int | None = None
    """The only partition to read; `None` for all."""


def backfill(
    settings: Settings,
    version: str,
    selection: OffsetSelection,
    out: Path | None = None,
    report: Report = lambda line: None,
) -> Backfill:
    """Score past events with a version and compare the predictions with those that were made.

    Args:
        settings: Settings of the stream.
        version: Model version.
        selection: Events to score.
        out: File that gets the new predictions as JSON lines; `None` for no file.
        report: Receives lines about the progress.

    Raises:
        DriftloopError: The version, an offset or a partition does not exist, the bundle fails its verification, or
            ``out`` exists.
    """
    spans = _spans(settings, selection)
    digest = Registry(settings, make=False).describe(version).get("digest", "")
    model = BundleCache(settings).fetch(version, digest, None)
    with _new_file(out) as file:
        rescorer = Rescorer(settings, model, file)
        for scored in _score(settings, spans, rescorer):
            report(f"{scored} of {sum(span.end - span.start for span in spans)} events scored with version {version}")
        report("reading the predictions and the labels")
        since = rescorer.first_at - CLOCK_SKEW
        predictions = read_predictions(settings, rescorer.scored, since) if rescorer.scored else {}
        labels = read_labels(settings, predictions, since) if predictions else {}
    return compare(version, spans, rescorer, predictions, labels)


def _spans(settings: Settings, selection: OffsetSelection) -> list[Span]:
    """Return the offsets to read in each partition.

    Raises:
        DriftloopError: They were deleted, do not exist yet, or are in no partition.
    """
    topic = name(settings, EVENTS)
    ranges = clients.offset_range(settings, topic)
    if selection.partition is not None:
        ranges = {tp: found for tp, found in ranges.items() if tp.partition == selection.partition}
    if not ranges:
        missing = topic if selection.partition is None else f"partition {selection.partition} of {topic}"
        raise DriftloopError(f"There is no {missing} at {settings.kafka}: correct --partition, or name another broker.")
    spans = []
    for tp, (oldest, next_offset) in ranges.items():
        start = oldest if selection.start is None else selection.start
        if start < oldest:
            raise DriftloopError(
                f"Offset {start} of {topic}, partition {tp.partition}, was deleted. The oldest that is kept is "
                f"{oldest}: give --from {oldest} or later, or --from earliest."
            )
        end = next_offset if selection.end is None else min(selection.end, next_offset)
        if start < end:
            spans.append(Span(partition=tp.partition, start=start, end=end))
    if not spans:
        ends = ", ".join(f"{end} (partition {tp.partition})" for tp, (_, end) in ranges.items())
        raise DriftloopError(
            f"There is no event between these offsets of {topic}, whose next one is {ends}: give a smaller --from, or "
            "a larger --to."
        )
    return spans


def _score(settings: Settings, spans: Sequence[Span], rescorer: Rescorer) -> Iterator[int]:
    """Score the events of the spans in batches of the scorer's size. Yield the number of records so far."""
    topic = name(settings, EVENTS)
    # Partitions without a span start at their end, so that nothing of them is read.
    start = {tp.partition: end for tp, (_, end) in clients.offset_range(settings, topic).items()}
    start |= {span.partition: span.start for span in spans}
    ends = {TopicPartition(topic, span.partition): span.end for span in spans}
    done = 0
    for part in clients.records(settings, topic, start, ends):
        for first in range(0, len(part), settings.scorer.batch):
            batch = part[first : first + settings.scorer.batch]
            rescorer.score(batch)
            done += len(batch)
            yield done


@contextmanager
def _new_file(out: Path | None) -> Iterator[IO[bytes] | None]:
    """Yield a file that gets its name when it is complete; an incomplete one is removed.

    Raises:
        DriftloopError: The file exists or cannot be written.
    """
    if out is None:
        yield None
        return
    if out.exists():
        raise DriftloopError(f"{out} already exists. Choose another file: no file is overwritten.")
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
