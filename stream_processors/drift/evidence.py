"""When a change began, and what moved: accuracy, confidence, label mix, words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

MIN_SIDE = 5
"""Observations that each side of a change point must have."""
WORD = re.compile(r"[\w#@']{3,}")


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One observation: a prediction, and its label where that has come."""

    position: int
    occurred_at: float
    predicted: str
    confidence: float
    text: str
    label: str = ""

    def value(self, signal: str) -> float:
        """The number that `signal` stands for: the error is 0 or 1, the confidence lies between 0 and 1."""
        return float(self.predicted != self.label) if signal == "error" else self.confidence


def change_point(rows: Sequence[Seen], signal: str) -> int:
    """Index of the first row after the most likely single change in mean.

    Maximises the CUSUM statistic ``n1 n2 / n (m1 - m2)^2`` over all splits (Hinkley, 1970; for the mix, summed over
    the classes), each side holding at least `MIN_SIDE` rows.
    """
    n = len(rows)
    if n < 2 * MIN_SIDE:
        return 0
    if signal == "mix":
        classes = sorted({row.predicted for row in rows})
        values = np.array([[row.predicted == name for name in classes] for row in rows], dtype=float)
    else:
        values = np.array([[row.value(signal)] for row in rows])
    sums = np.cumsum(values, axis=0)
    left = np.arange(1, n)[:, None]
    gap = sums[:-1] / left - (sums[-1] - sums[:-1]) / (n - left)
    statistic = (left * (n - left) / n * gap**2).sum(axis=1)[MIN_SIDE - 1 : n - MIN_SIDE]
    return int(statistic.argmax()) + MIN_SIDE


def mean(rows: Sequence[Seen], signal: str) -> float:
    """Mean of the signal over the rows."""
    return float(np.mean([row.value(signal) for row in rows])) if rows else 0.0


def mix(rows: Sequence[Seen], attribute: str = "predicted") -> dict[str, float]:
    """Share of each class, by what was predicted or by the true label."""
    counts = Counter(str(getattr(row, attribute)) for row in rows)
    return {name: round(count / len(rows), 4) for name, count in sorted(counts.items())}


def mix_distance(before: Sequence[Seen], after: Sequence[Seen]) -> float:
    """Total variation distance between the two mixes of predicted labels, from 0 to 1."""
    old, new = mix(before), mix(after)
    return 0.5 * sum(abs(new.get(name, 0.0) - old.get(name, 0.0)) for name in old.keys() | new.keys())


def evidence(before: Sequence[Seen], after: Sequence[Seen]) -> dict[str, Any]:
    """What moved, as JSON: each entry holds the value before and after the onset."""
    found: dict[str, Any] = {
        "confidence": [round(mean(before, "confidence"), 4), round(mean(after, "confidence"), 4)],
        "predicted_mix": [mix(before), mix(after)],
        "words": risen_words(before, after),
    }
    if after[-1].label:
        found["accuracy"] = [round(1 - mean(before, "error"), 4), round(1 - mean(after, "error"), 4)]
        found["label_mix"] = [mix(before, "label"), mix(after, "label")]
    return found


def risen_words(before: Sequence[Seen], after: Sequence[Seen], most: int = 8) -> list[str]:
    """The words whose share of texts rose most, by the z-score of the log odds (Monroe et al., 2008)."""
    old, new = _words(before), _words(after)
    n_old, n_new = len(before) + 1, len(after) + 1

    def score(word: str) -> float:
        a, b = new[word] + 0.5, old[word] + 0.5
        odds = np.log(a / max(n_new - a, 0.5)) - np.log(b / max(n_old - b, 0.5))
        return float(odds / np.sqrt(1 / a + 1 / b))

    frequent = [word for word, count in new.items() if count >= 3]
    return sorted((word for word in frequent if score(word) > 2), key=score, reverse=True)[:most]


def _words(rows: Sequence[Seen]) -> Counter[str]:
    return Counter(word for row in rows for word in set(WORD.findall(row.text.lower())))
