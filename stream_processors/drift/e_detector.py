"""A change detector with a guarantee: conformal p-values, bets on them, and a Shiryaev-Roberts sum of the winnings.

While the scores are exchangeable, each smoothed conformal p-value is uniform and independent of those before it (Vovk,
Gammerman and Shafer, 2005), a bet on small p-values multiplies its stake by 1 in the mean, and the Shiryaev-Roberts
sum of all bets begun at every moment so far has mean n after n scores. Stopping when it passes A therefore takes A
scores or more in the mean (Shin, Ramdas and Rinaldo, "E-detectors", 2022), and an average of such sums keeps that
property, however the signals depend on each other.
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
"""Scores are compared after rounding to 1/BINS: a fixed monotone map, so p-values stay exact in constant memory."""
QUANTILES = tuple(0.02 * 1.5**step for step in range(9))
EXPONENTS = (0.25, 0.5, 0.7, 0.85)


def _bets() -> tuple[NDArray[np.float64], ...]:
    """Of each bet its threshold q, what it pays for a p-value below and above, 1 in the mean, and its weight.

    A bet (q, g) expects the share q of the most surprising scores to become q**g: from 1.1 times as many to nineteen
    times as many. An error of rate r has its p-values below r, so the thresholds lie close: a bet whose q is far from
    r takes errors and correct answers for the same. The stake of a bet costs it the logarithm of its weight, which it
    wins back at its growth rate, the Kullback-Leibler divergence d of q**g from q. Weights 1/d would make the sum of
    all delays least at the expense of large changes, equal ones do the reverse; these lie between the two.
    """
    grid = np.array(list(product(QUANTILES, EXPONENTS)))
    quantile, share = grid[:, 0], grid[:, 0] ** grid[:, 1]
    below, above = share / quantile, (1 - share) / (1 - quantile)
    weight = (share * np.log(below) + (1 - share) * np.log(above)) ** -0.5
    return quantile, below, above, weight / weight.sum()


_QUANTILE, _BELOW, _ABOVE, _WEIGHT = _bets()
_PAYS = np.array([np.where(least <= _QUANTILE, _BELOW, _ABOVE) for least in (*QUANTILES, np.inf)])
"""What the bets pay, by how many of the thresholds lie below the p-value."""


class EDetector:
    """Watches scores between 0 and 1 for a rise: `value` is the Shiryaev-Roberts sum, a weighted mean of the bets'."""

    _value: float | None = None
    """Of the present sums, once it was asked for: all signals are asked at each event, and few have changed."""

    def __init__(self) -> None:
        self.reset()

    @property
    def value(self) -> float:
        """The evidence for a rise: its mean after n exchangeable scores is n."""
        if self._value is None:
            self._value = float(_WEIGHT @ self._sums)
        return self._value

    def reset(self) -> None:
        """Forget the reference and the evidence."""
        self._counts = np.zeros(BINS, dtype=np.int64)
        self._seen = 0
        self._sums = np.zeros(len(_QUANTILE))
        self._value = None

    def calibrate(self, scores: NDArray[np.float64]) -> None:
        """Make ``scores``, shape (n,), the reference, and keep the evidence."""
        self._counts = np.bincount(_bin(scores), minlength=BINS).astype(np.int64)
        self._seen = len(scores)

    def update(self, score: float, tie: float) -> float:
        """Take a score; ``tie``, uniform on [0, 1), ranks it among its equals. Returns its p-value."""
        at = min(int(score * BINS), BINS - 1)
        larger = int(np.add.reduce(self._counts[at + 1 :]))  # half the time of its method
        p = (larger + tie * (int(self._counts[at]) + 1)) / (self._seen + 1)
        self._counts[at] += 1
        self._seen += 1
        self.bet(p)
        return p

    def bet(self, p: float) -> None:
        """Take a p-value that another detector has computed."""
        self._sums = (self._sums + 1) * _PAYS[bisect_left(QUANTILES, p)]
        self._value = None


class ClassShareDetector:
    """The e-detectors of k classes side by side: for each whether it comes more often than it did."""

    def __init__(self, names: Sequence[str] = (), rows: Sequence[str] = ()) -> None:
        """``rows`` are the reference: the classes that came so far, which are among ``names``."""
        self.names = list(names)
        came = Counter(rows)
        self._came = [came[name] for name in names]
        self._seen = [len(rows)] * len(names)
        self._sums = np.zeros((len(names), len(_QUANTILE)))
        self._value: float | None = None

    @property
    def value(self) -> float:
        """The evidence, averaged over the classes."""
        if self._value is None:
            self._value = float((self._sums @ _WEIGHT).mean()) if self.names else 0.0
        return self._value

    def add(self, name: str, seen: int) -> None:
        """A class that none of ``seen`` events had."""
        self.names.append(name)
        self._came.append(0)
        self._seen.append(seen)
        self._sums = np.vstack([self._sums, np.zeros(len(_QUANTILE))])

    def update(self, came: str, ties: Sequence[float]) -> None:
        """Take an event's class; ``ties`` as for `EDetector.update`, one for each class."""
        at = []
        for row, (name, tie, before, seen) in enumerate(zip(self.names, ties, self._came, self._seen, strict=True)):
            p = tie * (before + 1) if name == came else before + tie * (seen - before + 1)
            at.append(bisect_left(QUANTILES, p / (seen + 1)))
            self._came[row] += name == came
            self._seen[row] += 1
        self._sums = (self._sums + 1) * _PAYS[at]
        self._value = None


def tie_breaker(event_id: str, signal: str) -> float:
    """A number on [0, 1) that is the same whenever the event is seen again."""
    return int.from_bytes(hashlib.blake2b(f"{signal} {event_id}".encode(), digest_size=6).digest()) / 2**48


def _bin(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum((scores * BINS).astype(np.int64), BINS - 1)
