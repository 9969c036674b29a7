"""E-detector: a change detector with a bound on its false alarms.

It bets on conformal p-values, and takes a Shiryaev-Roberts sum of the winnings. While the scores are exchangeable,
three facts hold:

1. Each smoothed conformal p-value is uniform and independent of those before it (Vovk, Gammerman and Shafer, 2005).
2. A bet on small p-values multiplies its stake by 1 on average.
3. The Shiryaev-Roberts sum of the bets that began at every moment so far has mean n after n scores.

An alarm when the sum passes A therefore takes A scores or more on average (Shin, Ramdas and Rinaldo, "E-detectors",
2022). An average of such sums has the same property, however the signals depend on each other.

The detectors are pickled into the monitor's state, so their attributes keep their names.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

BINS = 512
"""Scores are compared after rounding to 1/BINS. The map is fixed and monotone, so p-values stay exact in constant
memory."""
QUANTILES = tuple(0.02 * 1.5**step for step in range(9))
"""Thresholds q of the bets."""
EXPONENTS = (0.25, 0.5, 0.7, 0.85)
"""Exponents g of the bets."""


def _bets() -> tuple[NDArray[np.float64], ...]:
    """Return four arrays with one value per bet: threshold q, payment for a p-value below and above q, and weight.

    A bet (q, g) expects that the share q of the most surprising scores becomes q**g, which is 1.1 to nineteen times as
    much. Its payments have mean 1. The p-values of an error of rate r lie below r, and a bet whose q is far from r
    cannot tell errors from correct predictions. The thresholds are therefore close to each other.

    A bet pays the logarithm of its weight for its stake. It wins that back at its growth rate d, the Kullback-Leibler
    divergence of q**g from q. Weights of 1/d would minimise the sum of all delays at the expense of large changes, and
    equal weights do the reverse. The weights here lie between the two.
    """
    grid = np.array(list(product(QUANTILES, EXPONENTS)))
    quantile, share = grid[:, 0], grid[:, 0] ** grid[:, 1]
    below, above = share / quantile, (1 - share) / (1 - quantile)
    weight = (share * np.log(below) + (1 - share) * np.log(above)) ** -0.5
    return quantile, below, above, weight / weight.sum()


_QUANTILE, _BELOW, _ABOVE, _WEIGHT = _bets()
_PAYS = np.array([np.where(least <= _QUANTILE, _BELOW, _ABOVE) for least in (*QUANTILES, np.inf)])
"""Payments of the bets, by the number of thresholds below the p-value."""


class EDetector:
    """E-detector of a rise in scores between 0 and 1 (Shin, Ramdas and Rinaldo, 2022).

    `value` is the Shiryaev-Roberts sum: the weighted mean of the sums of all bets.
    """

    # Cached value of the present sums: all signals are asked at each event, and few have changed.
    _value: float | None = None

    def __init__(self) -> None:
        self.reset()

    @property
    def value(self) -> float:
        """Evidence for a rise; its mean after n exchangeable scores is n."""
        if self._value is None:
            self._value = float(_WEIGHT @ self._sums)
        return self._value

    def reset(self) -> None:
        """Drop the reference and the evidence."""
        self._counts = np.zeros(BINS, dtype=np.int64)
        self._seen = 0
        self._sums = np.zeros(len(_QUANTILE))
        self._value = None

    def calibrate(self, scores: NDArray[np.float64]) -> None:
        """Replace the reference by scores of shape (n,), and keep the evidence."""
        self._counts = np.bincount(_bin(scores), minlength=BINS).astype(np.int64)
        self._seen = len(scores)

    def update(self, score: float, tie: float) -> float:
        """Add a score; return its p-value.

        Args:
            score: Score between 0 and 1.
            tie: Uniform number on [0, 1) that ranks it among equal scores; see `tie_breaker`.
        """
        at = min(int(score * BINS), BINS - 1)
        larger = int(np.add.reduce(self._counts[at + 1 :]))  # takes half the time of ndarray.sum
        p = (larger + tie * (int(self._counts[at]) + 1)) / (self._seen + 1)
        self._counts[at] += 1
        self._seen += 1
        self.bet(p)
        return p

    def bet(self, p: float) -> None:
        """Add a p-value that another detector has computed."""
        self._sums = (self._sums + 1) * _PAYS[bisect_left(QUANTILES, p)]
        self._value = None


class ClassShareDetector:
    """E-detectors of a rise in the share of each of k classes (Shin, Ramdas and Rinaldo, 2022).

    Args:
        names: Names of the classes.
        rows: Classes of the reference events; each must be one of the names.
    """

    def __init__(self, names: Sequence[str] = (), rows: Sequence[str] = ()) -> None:
        self.names = list(names)
        came = Counter(rows)
        self._came = [came[name] for name in names]
        self._seen = [len(rows)] * len(names)
        self._sums = np.zeros((len(names), len(_QUANTILE)))
        self._value: float | None = None

    @property
    def value(self) -> float:
        """Evidence, averaged over the classes."""
        if self._value is None:
            self._value = float((self._sums @ _WEIGHT).mean()) if self.names else 0.0
        return self._value

    def add(self, name: str, seen: int) -> None:
        """Add a class.

        Args:
            name: Name of the class.
            seen: Number of events so far, none of which had the class.
        """
        self.names.append(name)
        self._came.append(0)
        self._seen.append(seen)
        self._sums = np.vstack([self._sums, np.zeros(len(_QUANTILE))])

    def update(self, came: str, ties: Sequence[float]) -> None:
        """Add an event.

        Args:
            came: Class of the event.
            ties: Tie breaker of each class, as for `EDetector.update`.
        """
        at = []
        for row, (name, tie, before, seen) in enumerate(zip(self.names, ties, self._came, self._seen, strict=True)):
            p = tie * (before + 1) if name == came else before + tie * (seen - before + 1)
            at.append(bisect_left(QUANTILES, p / (seen + 1)))
            self._came[row] += name == came
            self._seen[row] += 1
        self._sums = (self._sums + 1) * _PAYS[at]
        self._value = None


def tie_breaker(event_id: str, signal: str) -> float:
    """Return a number on [0, 1) that is the same each time the event is read.

    Args:
        event_id: Id of the event.
        signal: Name of the signal, so that signals rank equal scores independently.
    """
    return int.from_bytes(hashlib.blake2b(f"{signal} {event_id}".encode(), digest_size=6).digest()) / 2**48


def _bin(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum((scores * BINS).astype(np.int64), BINS - 1)
