"""Aggregates for the report: pure functions over the labelled events and predictions of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from driftloop.core.messages import Outcome, Prediction
from serving.report.run_data import Bin, Confusion, Durations, Mix, Second, Slice, Texts

BINS, SMALLEST = 60, 50
"""Largest number of bins along the stream; the size of a bin is a multiple of the second number, in events."""
BARS = 24
"""Number of bars of a histogram."""
STRETCHES = 80
"""Largest number of parts of the throughput over time; a part is at least one second long."""


def bins(counted: Sequence[Outcome]) -> list[Bin]:
    """Return the correct predictions along the stream. Events without a position are left out."""
    placed = [outcome for outcome in counted if outcome.position >= 0]
    if not placed:
        return []
    end = max(outcome.position for outcome in placed) + 1
    size = -(-end // (BINS * SMALLEST)) * SMALLEST
    found: dict[int, list[bool]] = {}
    for outcome in placed:
        found.setdefault(outcome.position // size, []).append(outcome.correct)
    return [
        Bin(start=number * size, end=(number + 1) * size, labelled=len(right), right=sum(right))
        for number, right in sorted(found.items())
    ]


def slices(counted: Iterable[Outcome], key: Callable[[Outcome], str]) -> list[Slice]:
    """Return the correct predictions by group, in the order of their first appearance.

    Args:
        counted: The labelled events that count.
        key: Function that returns the group of an event, its segment or its class.
    """
    groups: dict[str, list[Outcome]] = {}
    for outcome in counted:
        groups.setdefault(key(outcome), []).append(outcome)
    return [
        Slice(
            name=name,
            labelled=len(rows),
            right=sum(row.correct for row in rows),
            first=min(row.position for row in rows),
            last=max(row.position for row in rows),
        )
        for name, rows in groups.items()
    ]


def label_mixes(outcomes: Iterable[Outcome]) -> list[Mix]:
    """Return the labels of each segment."""
    found: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.segment, Counter())[outcome.label] += 1
    return [Mix(segment=segment, labels=dict(sorted(labels.items()))) for segment, labels in found.items()]


def confusions(counted: Iterable[Outcome]) -> list[Confusion]:
    """Return the count of each pair of true and predicted label."""
    pairs = Counter((outcome.label, outcome.predicted) for outcome in counted)
    return [
        Confusion(label=label, predicted=predicted, count=count) for (label, predicted), count in sorted(pairs.items())
    ]


def majority_label(outcomes: Sequence[Outcome], counted: Sequence[Outcome]) -> tuple[str, int]:
    """Return the most frequent label of the warm-up, and how often it is correct after the warm-up.

    Without a warm-up it is the most frequent label of all, which a real baseline could not know in advance.

    Args:
        outcomes: All labelled events.
        counted: The labelled events that count, without those of the warm-up.
    """
    ids = {outcome.event_id for outcome in counted}
    warm = [outcome for outcome in outcomes if outcome.event_id not in ids]
    seen = Counter(outcome.label for outcome in warm or outcomes)
    if not seen:
        return "", 0
    label = max(sorted(seen), key=seen.__getitem__)
    return label, sum(outcome.label == label for outcome in counted)


def text_statistics(predictions: Sequence[Prediction]) -> Texts:
    """Return number and lengths of the scored texts."""
    if not predictions:
        return Texts()
    lengths = [len(prediction.text) for prediction in predictions]
    return Texts(
        count=len(lengths),
        distinct=len({prediction.text for prediction in predictions}),
        median_characters=float(np.median(lengths)),
        longest=max(lengths),
    )


def durations(values: Sequence[float]) -> Durations:
    """Return percentiles and a histogram of durations in milliseconds. Its edges are evenly spaced on a log scale."""
    if not values:
        return Durations()
    taken = np.maximum(np.asarray(values, dtype=float), 0.01)
    low, high = float(taken.min()), float(taken.max())
    edges = np.geomspace(low, max(high, low * 1.1), BARS + 1)
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    counts, _ = np.histogram(taken, bins=edges)
    p50, p95, p99 = (round(float(value), 2) for value in np.percentile(values, [50, 95, 99]))
    return Durations(
        count=len(values),
        p50=p50,
        p95=p95,
        p99=p99,
        longest=round(float(max(values)), 2),
        edges=[round(float(edge), 4) for edge in edges],
        counts=[int(count) for count in counts],
    )


def speed(predictions: Sequence[Prediction]) -> list[Second]:
    """Return the predictions over time, in parts of equal length."""
    if not predictions:
        return []
    times = np.sort(np.asarray([prediction.predicted_at for prediction in predictions]))
    passed = times - times[0]
    width = max(float(np.ceil(passed[-1] / STRETCHES)), 1.0)
    counts = np.bincount((passed // width).astype(int))
    return [Second(at=number * width, width=width, predictions=int(count)) for number, count in enumerate(counts)]
