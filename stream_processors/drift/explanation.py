"""Explanation of a change: its onset, and the movement of accuracy, confidence, mix, words, segments and classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_processors.drift.signals import words

MIN_BEFORE = 30
"""Observations before the onset without which no change is reported."""
MIN_SIDE = 5
"""Minimum number of observations on each side of a change point."""
LIKELIHOOD_DROP = -2 * np.log(0.05)
"""Twice the log of the likelihood ratio below which an onset is too unlikely, compared with the best one."""
MAX_EXAMPLES = 3
"""Examples of a movement."""
EXCERPT = 120
"""Characters to which the text of an example is cut."""


class ObservedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Prediction of an event, with its label if that has come."""

    position: int
    occurred_at: float
    predicted: str
    confidence: float
    text: str
    label: str = ""
    event_id: str = ""
    segment: str = ""
    version: str = ""

    def value(self, signal: str) -> float:
        """Return the error, which is 0 or 1, or the confidence, which lies between 0 and 1."""
        return float(self.predicted != self.label) if signal == "error" else self.confidence


class Movement(msgspec.Struct, frozen=True, kw_only=True):
    """Movement of a segment, class or word, by the share that moved most."""

    what: str
    """Kind of the name: segment, class or word."""
    name: str
    measure: str
    """Measure: share (of events), predicted (share of predictions), label (share of labels) or error (rate within)."""
    before: float
    after: float
    z: float
    """Two-proportion z statistic; lists are ranked by its size."""
    event_ids: list[str]
    texts: list[str]
    """Texts of up to three examples since the onset, the newest first, cut to 120 characters each."""


def change_point(rows: Sequence[ObservedEvent], signal: str) -> int:
    """Return the index of the first row after the most likely single change in mean; see `change_interval`.

    Args:
        rows: Observations, oldest first.
        signal: error, confidence or mix.
    """
    if len(rows) < 2 * MIN_SIDE:
        return 0
    if signal == "mix":
        classes = sorted({row.predicted for row in rows})
        values = np.array([[row.predicted == name for name in classes] for row in rows], dtype=float)
    else:
        values = np.array([[row.value(signal)] for row in rows])
    return change_interval(values)[0]


def change_interval(values: NDArray[np.float64]) -> tuple[int, int, int]:
    """Return the most likely single change in mean of values of shape (n, k), and the interval of likely ones.

    A change is the index of the first value after it, with at least `MIN_SIDE` rows on each side. The most likely one
    maximises the CUSUM statistic ``n1 n2 / n (m1 - m2)^2`` (Hinkley, 1970), summed over the columns. Divided
    by the remaining variance, the statistic is twice the log likelihood ratio under Gaussian noise. The interval holds
    the splits that are at least 5% as likely as the best.
    """
    n = len(values)
    if n < 2 * MIN_SIDE:
        return 0, 0, max(n - 1, 0)
    sums = np.cumsum(values, axis=0)
    left = np.arange(1, n)[:, None]
    gap = sums[:-1] / left - (sums[-1] - sums[:-1]) / (n - left)
    statistic = (left * (n - left) / n * gap**2).sum(axis=1)[MIN_SIDE - 1 : n - MIN_SIDE]
    best = int(statistic.argmax())
    total = float(((values - values.mean(axis=0)) ** 2).sum())
    noise = max(total - float(statistic[best]), 1e-12) / (n * values.shape[1])
    likely = np.flatnonzero(statistic >= statistic[best] - LIKELIHOOD_DROP * noise)
    return best + MIN_SIDE, int(likely[0]) + MIN_SIDE, int(likely[-1]) + MIN_SIDE


def mean(rows: Sequence[ObservedEvent], signal: str) -> float:
    """Return the mean of a signal; 0 without rows.

    Args:
        rows: Observations.
        signal: error or confidence.
    """
    return float(np.mean([row.value(signal) for row in rows])) if rows else 0.0


def mix(rows: Sequence[ObservedEvent], attribute: str = "predicted") -> dict[str, float]:
    """Return the share of each class.

    Args:
        rows: Observations.
        attribute: predicted or label.
    """
    counts = Counter(str(getattr(row, attribute)) for row in rows)
    return {name: round(count / len(rows), 4) for name, count in sorted(counts.items())}


def mix_distance(before: Sequence[ObservedEvent], after: Sequence[ObservedEvent]) -> float:
    """Return the total variation distance between two mixes of predicted labels, from 0 to 1.

    Args:
        before: Observations before the onset.
        after: Observations since the onset.
    """
    old, new = mix(before), mix(after)
    return 0.5 * sum(abs(new.get(name, 0.0) - old.get(name, 0.0)) for name in old.keys() | new.keys())


def explain(before: Sequence[ObservedEvent], after: Sequence[ObservedEvent]) -> dict[str, Any]:
    """Return what moved, as JSON; each entry holds the value before and after the onset.

    Args:
        before: Observations before the onset.
        after: Observations since the onset.
    """
    found: dict[str, Any] = {
        "confidence": [round(mean(before, "confidence"), 4), round(mean(after, "confidence"), 4)],
        "predicted_mix": [mix(before), mix(after)],
        "words": risen_words(before, after),
    }
    if after and after[-1].label:
        found["accuracy"] = [round(1 - mean(before, "error"), 4), round(1 - mean(after, "error"), 4)]
        found["label_mix"] = [mix(before, "label"), mix(after, "label")]
    return found


def movements(
    predicted: tuple[Sequence[ObservedEvent], Sequence[ObservedEvent]],
    labelled: tuple[Sequence[ObservedEvent], Sequence[ObservedEvent]],
    most: int = 8,
) -> list[Movement]:
    """Return the segments and classes that moved, the surest first.

    For a segment, two measures are compared: the share of events and the error within it. For a class there are three:
    the share of predictions, the share of true labels, and the error among its true members. Each segment or class is
    listed once, with the measure that moved most.

    Args:
        predicted: Predictions before and since the onset.
        labelled: Predictions with labels before and since the onset.
        most: Maximum length of the result.
    """
    found: dict[tuple[str, str], Movement] = {}

    def compare(
        what: str,
        measure: str,
        rows: tuple[Sequence[ObservedEvent], Sequence[ObservedEvent]],
        key: Callable[[ObservedEvent], str],
    ) -> None:
        for name in sorted({key(row) for side in rows for row in side} - {""}):
            members = [[row for row in side if key(row) == name] for side in rows]
            if measure == "error":
                hits, sizes = (
                    [sum(row.predicted != row.label for row in side) for side in members],
                    list(map(len, members)),
                )
            else:
                hits, sizes = list(map(len, members)), list(map(len, rows))
            if min(sizes) < MIN_SIDE:
                continue
            z = _z(hits[0], sizes[0], hits[1], sizes[1])
            if (what, name) not in found or abs(z) > abs(found[what, name].z):
                examples = (members[1] or members[0])[: -MAX_EXAMPLES - 1 : -1]
                found[what, name] = _movement(what, name, measure, hits, sizes, z, examples)

    compare("segment", "share", predicted, lambda row: row.segment)
    compare("class", "predicted", predicted, lambda row: row.predicted)
    compare("segment", "error", labelled, lambda row: row.segment)
    compare("class", "label", labelled, lambda row: row.label)
    compare("class", "error", labelled, lambda row: row.label)
    return sorted(found.values(), key=lambda one: (-abs(one.z), one.name))[:most]


def moved_words(before: Sequence[ObservedEvent], after: Sequence[ObservedEvent], most: int = 8) -> list[Movement]:
    """Return the risen words as movements, with examples.

    Args:
        before: Observations before the onset.
        after: Observations since the onset.
        most: Maximum length of the result.
    """
    found = []
    for name in risen_words(before, after, most):
        members = [[row for row in side if name in words(row.text)] for side in (before, after)]
        hits, sizes = list(map(len, members)), [len(before), len(after)]
        z = _z(hits[0], sizes[0], hits[1], sizes[1])
        found.append(_movement("word", name, "share", hits, sizes, z, members[1][: -MAX_EXAMPLES - 1 : -1]))
    return found


def risen_words(before: Sequence[ObservedEvent], after: Sequence[ObservedEvent], most: int = 8) -> list[str]:
    """Return the words whose share of texts rose most, by the z-score of the log odds (Monroe et al., 2008).

    Args:
        before: Observations before the onset.
        after: Observations since the onset.
        most: Maximum length of the result.
    """
    old, new = _words(before), _words(after)
    n_old, n_new = len(before) + 1, len(after) + 1

    def score(word: str) -> float:
        a, b = new[word] + 0.5, old[word] + 0.5
        odds = np.log(a / max(n_new - a, 0.5)) - np.log(b / max(n_old - b, 0.5))
        return float(odds / np.sqrt(1 / a + 1 / b))

    frequent = [word for word, count in new.items() if count >= 3]
    return sorted((word for word in frequent if score(word) > 2), key=lambda word: (-score(word), word))[:most]


def _words(rows: Sequence[ObservedEvent]) -> Counter[str]:
    return Counter(word for row in rows for word in words(row.text))


def _z(old: int, n_old: int, new: int, n_new: int) -> float:
    """Return the two-proportion z statistic, with half a count added to each cell, so that an empty one is no error."""
    a, b = (old + 0.5) / (n_old + 1), (new + 0.5) / (n_new + 1)
    pooled = (old + new + 1) / (n_old + n_new + 2)
    return float((b - a) / np.sqrt(pooled * (1 - pooled) * (1 / (n_old + 1) + 1 / (n_new + 1))))


def _movement(
    what: str,
    name: str,
    measure: str,
    hits: Sequence[int],
    sizes: Sequence[int],
    z: float,
    examples: Sequence[ObservedEvent],
) -> Movement:
    before, after = (round(hit / size, 4) if size else 0.0 for hit, size in zip(hits, sizes, strict=True))
    return Movement(
        what=what,
        name=name,
        measure=measure,
        before=before,
        after=after,
        z=round(z, 2),
        event_ids=[row.event_id for row in examples],
        texts=[row.text[:EXCERPT] for row in examples],
    )
