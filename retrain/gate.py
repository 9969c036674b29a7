"""The gate: a challenger replaces the champion only where it is better beyond chance, on events neither has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftloop.classifiers.base import Predictions

RESAMPLES = 2000

Values = NDArray[np.float64]


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
    brier_low: float
    brier_high: float
    """Bounds of the bootstrap interval of how much lower the challenger's Brier score is."""
    rows: int


def compare(
    truth: Sequence[str], champion: Predictions, challenger: Predictions, *, confidence: float = 0.9, seed: int = 7
) -> Verdict:
    """Compare two models' answers to the same n events by a paired bootstrap (Efron and Tibshirani, 1993).

    The challenger wins when the interval of its gain in accuracy lies above zero, or when it is at least as accurate
    and the interval of its gain in Brier score (Brier, 1950) does: on the few dozen events after a drift, right and
    wrong alone seldom tell two models apart. ``confidence`` is the two-sided level of both percentile intervals.

    Raises:
        ValueError: the truth is empty, or the answers are not as many.
    """
    if not truth or not len(truth) == len(champion.labels) == len(challenger.labels):
        raise ValueError(
            f"cannot compare {len(champion.labels)} and {len(challenger.labels)} answers on {len(truth)} events"
        )
    old, new = _correct(truth, champion), _correct(truth, challenger)
    low, high = bootstrap_interval(new - old, confidence, seed)
    brier = _brier(truth, champion) - _brier(truth, challenger)
    brier_low, brier_high = bootstrap_interval(brier, confidence, seed)
    difference = float((new - old).mean())
    better = low > 0 or (difference >= 0 and brier_low > 0)
    said = "better" if better else "not better beyond chance"
    return Verdict(
        better=better,
        reason=(
            f"{said}: {new.mean():.3f} against {old.mean():.3f} on the newest {len(truth)} events, "
            f"accuracy {difference:+.3f} [{low:+.3f}, {high:+.3f}], "
            f"Brier score {-brier.mean():+.3f} [{-brier_high:+.3f}, {-brier_low:+.3f}]"
        ),
        champion_accuracy=float(old.mean()),
        challenger_accuracy=float(new.mean()),
        low=low,
        high=high,
        brier_low=brier_low,
        brier_high=brier_high,
        rows=len(truth),
    )


def _correct(truth: Sequence[str], said: Predictions) -> Values:
    """Shape (n,): 1 where the answer is right."""
    return np.asarray([float(a == b) for a, b in zip(said.labels, truth, strict=True)])


def _brier(truth: Sequence[str], said: Predictions) -> Values:
    """Shape (n,): the squared distance between the probabilities and the truth, from 0 to 2, summed over all classes.

    A class that the model cannot name has probability zero.
    """
    column = {name: number for number, name in enumerate(said.classes)}
    given = said.probabilities.astype(np.float64)
    right = np.array([given[row, column[name]] if name in column else 0.0 for row, name in enumerate(truth)])
    return np.asarray((given**2).sum(axis=1) - 2 * right + 1)


def bootstrap_interval(values: Values, confidence: float, seed: int) -> tuple[float, float]:
    """Percentile interval of the mean of ``values`` (n,) over `RESAMPLES` resamples with replacement."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
