"""When a change began, and what moved: accuracy, confidence, label mix, words, segments and classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_processors.drift.signals import words

MIN_BEFORE = 30
"""Observations needed before the onset for a change to be a change from something."""
MIN_SIDE = 5
"""Observations that each side of a change point must have."""
LIKELIHOOD_DROP = -2 * np.log(0.05)
"""Twice the log of the ratio at which an onset is too unlikely beside the best one."""
SAMPLES, EXCERPT = 3, 120


class ObservedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One observation: a prediction, and its label where that has come."""

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
        """The number that `signal` stands for: the error is 0 or 1, the confidence lies between 0 and 1."""
        return float(self.predicted != self.label) if signal == "error" else self.confidence


class Movement(msgspec.Struct, frozen=True, kw_only=True):
    """A segment, class or word and the share that moved most."""

    what: str
    """segment, class or word."""
    name: str
    measure: str
    """share (of events), predicted (share of predictions), label (share of labels) or error (rate within it)."""
    before: float
    after: float
    z: float
    """The two-proportion z statistic; lists are ranked by its size."""
    event_ids: list[str]
    texts: list[str]
    """Up to three examples since the onset, the newest first; texts are cut to 120 characters."""


def change_point(rows: Sequence[ObservedEvent], signal: str) -> int:
    """Index of the first row after the most likely single change in mean; see `change_interval`."""
    if len(rows) < 2 * MIN_SIDE:
        return 0
    if signal == "mix":
        classes = sorted({row.predicted for row in rows})
        values = np.array([[row.predicted == name for name in classes] for row in rows], dtype=float)
    else:
        values = np.array([[row.value(signal)] for row in rows])
    return change_interval(values)[0]


def change_interval(values: NDArray[np.float64]) -> tuple[int, int, int]:
    """Index of the first value after the most likely single change in mean, and the least and largest likely ones.

    Maximises the CUSUM statistic ``n1 n2 / n (m1 - m2)^2`` over all splits (Hinkley, 1970), summed over the columns of
    ``values``, shape (n, k), each side holding at least `MIN_SIDE` rows. Over the variance that remains it is twice the
    log likelihood ratio under Gaussian noise: the interval holds the splits at least 5% as likely as the best.
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
    """Mean of the signal over the rows."""
    return float(np.mean([row.value(signal) for row in rows])) if rows else 0.0


def mix(rows: Sequence[ObservedEvent], attribute: str = "predicted") -> dict[str, float]:
    """Share of each class, by what was predicted or by the true label."""
    counts = Counter(str(getattr(row, attribute)) for row in rows)
    return {name: round(count / len(rows), 4) for name, count in sorted(counts.items())}


def mix_distance(before: Sequence[ObservedEvent], after: Sequence[ObservedEvent]) -> float:
    """Total variation distance between the two mixes of predicted labels, from 0 to 1."""
    old, new = mix(before), mix(after)
    return 0.5 * sum(abs(new.get(name, 0.0) - old.get(name, 0.0)) for name in old.keys() | new.keys())


def explain(before: Sequence[ObservedEvent], after: Sequence[ObservedEvent]) -> dict[str, Any]:
    """What moved, as JSON: each entry holds the value before and after the onset."""
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
    """Segments and classes that moved, the surest first; each pair holds the rows before and after the onset.

    Of a segment the share of events and the error within it are compared, of a class the share of predictions, the
    share of true labels and the error among its true members; each is listed once, with what moved most.
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
                examples = (members[1] or members[0])[: -SAMPLES - 1 : -1]
                found[what, name] = _movement(what, name, measure, hits, sizes, z, examples)

    compare("segment", "share", predicted, lambda row: row.segment)
    compare("class", "predicted", predicted, lambda row: row.predicted)
    compare("segment", "error", labelled, lambda row: row.segment)
    compare("class", "label", labelled, lambda row: row.label)
    compare("class", "error", labelled, lambda row: row.label)
    return sorted(found.values(), key=lambda one: (-abs(one.z), one.name))[:most]


def moved_words(before: Sequence[ObservedEvent], after: Sequence[ObservedEvent], most: int = 8) -> list[Movement]:
    """The risen words as movements, with examples."""
    found = []
    for name in risen_words(before, after, most):
        members = [[row for row in side if name in words(row.text)] for side in (before, after)]
        hits, sizes = list(map(len, members)), [len(before), len(after)]
        z = _z(hits[0], sizes[0], hits[1], sizes[1])
        found.append(_movement("word", name, "share", hits, sizes, z, members[1][: -SAMPLES - 1 : -1]))
    return found


def risen_words(before: Sequence[ObservedEvent], after: Sequence[ObservedEvent], most: int = 8) -> list[str]:
    """The words whose share of texts rose most, by the z-score of the log odds (Monroe et al., 2008)."""
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
    """Two-proportion z with half a count added to each cell, so that an empty one can be compared."""
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
