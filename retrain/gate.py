"""The gate: a challenger replaces the champion only where it is better beyond chance, on events neither has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000


@dataclass(frozen=True)
class Verdict:
    """The comparison of a challenger with the champion on n held-out events."""

    better: bool
    reason: str
    champion_accuracy: float
    challenger_accuracy: float
    low: float
    high: float
    """Bounds of the bootstrap interval of the difference in accuracy, challenger minus champion."""
    rows: int


def compare(
    truth: Sequence[str], champion: Sequence[str], challenger: Sequence[str], *, confidence: float = 0.9, seed: int = 7
) -> Verdict:
    """Compare two models' labels on the same n events by a paired bootstrap (Efron and Tibshirani, 1993).

    ``confidence`` is the two-sided level of the percentile interval; the challenger wins when the interval lies
    above zero.

    Raises:
        ValueError: the three sequences are empty or differ in length.
    """
    if not truth or not len(truth) == len(champion) == len(challenger):
        raise ValueError(f"cannot compare {len(champion)} and {len(challenger)} answers on {len(truth)} events")
    right = np.asarray(truth)
    old = (np.asarray(champion) == right).astype(float)
    new = (np.asarray(challenger) == right).astype(float)
    low, high = bootstrap_interval(new - old, confidence, seed)
    difference = float((new - old).mean())
    better = low > 0
    said = "better" if better else "not better beyond chance"
    return Verdict(
        better=better,
        reason=(
            f"{said}: {new.mean():.3f} against {old.mean():.3f} on the newest {len(truth)} events, "
            f"difference {difference:+.3f} [{low:+.3f}, {high:+.3f}]"
        ),
        champion_accuracy=float(old.mean()),
        challenger_accuracy=float(new.mean()),
        low=low,
        high=high,
        rows=len(truth),
    )


def bootstrap_interval(values: NDArray[np.float64], confidence: float, seed: int) -> tuple[float, float]:
    """Percentile interval of the mean of ``values`` (n,) over `RESAMPLES` resamples with replacement."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
