"""Two models on the same live events, compared after every label: a decision that may be taken at any time.

A challenger in shadow and a predecessor on probation are looked at again and again. A test with a fixed number of rows
says "better" sooner or later if it is asked often enough; a test by betting does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Decision = Literal["challenger", "champion", "undecided"]

FRACTIONS = np.linspace(0.05, 0.9, 12)
"""Shares of the largest safe bet that the mixture is spread over: small ones for small gains, large for large."""
INTERVAL_POINTS = 401
"""Means tried for the interval."""


class EValues(NamedTuple):
    """E-values: what 1 staked against a null hypothesis has become; under that hypothesis 1 on average."""

    challenger: float
    """Against "the gain is the minimum gain or less"."""
    champion: float
    """Against "the gain is the minimum gain or more"."""


class PairedTest:
    """Anytime-valid paired test of the mean gain of a challenger over a champion.

    Testing by betting (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting"): for
    each side a capital of 1 is bet on every next difference, spread over twelve fixed shares of the largest safe bet
    (the paper's grid variant of Kelly betting). By Ville's inequality the chance that either capital ever reaches
    2/``alpha`` while the gain is ``minimum_gain`` stays below ``alpha``, whenever and however often one looks. A
    decision stands once it is taken. Nothing is assumed of the differences but their bounds, and that their mean, given
    the past, is on one side of ``minimum_gain``.

    Labelled events until a decision at alpha 0.05 on correctness, where one of the two models is right and the other
    wrong on three events in ten: a median of 52 for a gain of 0.2, 217 for 0.1 and 955 for 0.05; fewer where the models
    disagree less (38 and 75 for gains of 0.2 and 0.1 without a loss anywhere).
    """

    def __init__(self, alpha: float, minimum_gain: float = 0.0, *, bound: float = 1.0) -> None:
        """``bound`` is the largest difference there can be: 1 for correctness, 2 for Brier scores.

        Raises:
            ValueError: ``alpha`` is not between 0 and 1, or the gain is not inside the bounds.
        """
        if not 0 < alpha < 1 or not abs(minimum_gain) < bound:
            raise ValueError(f"no test at alpha {alpha} for a gain of {minimum_gain} within ±{bound}")
        self.alpha = alpha
        self.minimum_gain = minimum_gain
        self.bound = bound
        self._differences: list[float] = []
        self._up = np.zeros(len(FRACTIONS))
        self._down = np.zeros(len(FRACTIONS))
        self._decision: Decision = "undecided"

    def update(self, champion_value: float, challenger_value: float) -> Decision:
        """Take one event's two values, higher is better (for a loss, give its negative); return the verdict.

        Raises:
            ValueError: the values differ by more than the bound, or one is not a number.
        """
        difference = challenger_value - champion_value
        if not abs(difference) <= self.bound + 1e-6:
            raise ValueError(f"a difference of {difference} is outside ±{self.bound}")
        self._differences.append(min(max(difference, -self.bound), self.bound))
        up, down = _bets(np.array(self._differences[-1]), np.array(self.minimum_gain), self.bound)
        self._up += up
        self._down += down
        if self._decision == "undecided":
            evidence, enough = self.evidence, 2 / self.alpha
            if evidence.challenger >= enough:
                self._decision = "challenger"
            elif evidence.champion >= enough:
                self._decision = "champion"
        return self._decision

    @property
    def events(self) -> int:
        """How many events were taken."""
        return len(self._differences)

    @property
    def gain(self) -> float:
        """The mean difference so far, challenger minus champion; 0 before the first event."""
        return float(np.mean(self._differences)) if self._differences else 0.0

    @property
    def evidence(self) -> EValues:
        """The e-values of both sides, now."""
        return EValues(_capital(self._up), _capital(self._down))

    @property
    def verdict(self) -> Decision:
        """Who was found better, beyond chance, than the minimum gain asks for; it does not change any more."""
        return self._decision

    @property
    def interval(self) -> tuple[float, float]:
        """Bounds of the mean gain that hold at all times together with probability 1 - ``alpha``."""
        if not self._differences:
            return -self.bound, self.bound
        means = np.linspace(-self.bound, self.bound, INTERVAL_POINTS)
        values, counts = np.unique(np.round(self._differences, 6), return_counts=True)
        up, down = np.zeros((2, INTERVAL_POINTS, len(FRACTIONS)))
        for value, count in zip(values, counts, strict=True):
            more_up, more_down = _bets(np.full(INTERVAL_POINTS, value), means, self.bound)
            up, down = up + count * more_up, down + count * more_down
        enough = np.log(2 / self.alpha)
        # The capital against "at most m" falls with m, the other rises: what neither refutes is one stretch. The bounds
        # go one step further out, since the true end lies between two of the means tried.
        kept = np.flatnonzero((_log_capital(up) < enough) & (_log_capital(down) < enough))
        if not len(kept):
            return self.gain, self.gain
        return float(means[max(kept[0] - 1, 0)]), float(means[min(kept[-1] + 1, INTERVAL_POINTS - 1)])

    def summary(self, champion: str = "the champion", challenger: str = "the challenger") -> str:
        """One line for people."""
        low, high = self.interval
        said = {"challenger": f"{challenger} is better", "champion": f"{champion} is better", "undecided": "undecided"}
        return (
            f"{said[self._decision]} after {self.events} events: gain of {challenger} {self.gain:+.3f} "
            f"[{low:+.3f}, {high:+.3f}], asked for {self.minimum_gain:+.3f}"
        )


class ShadowTest:
    """Two paired tests at half of ``alpha`` each, on correctness and on the Brier score (Brier, 1950).

    Right and wrong alone decide slowly, since two models mostly agree; the probabilities decide sooner. The Brier score
    decides only where the accuracy so far does not point the other way, as in `retrain.evaluation.gate.compare`.
    """

    def __init__(self, alpha: float, minimum_gain: float = 0.0) -> None:
        self.accuracy = PairedTest(alpha / 2, minimum_gain)
        self.brier = PairedTest(alpha / 2, bound=2.0)
        self._decision: Decision = "undecided"

    def update(self, truth: str, champion: Mapping[str, float], challenger: Mapping[str, float]) -> Decision:
        """Take one labelled event and both models' probabilities by class; return the verdict."""
        self.accuracy.update(float(_top(champion) == truth), float(_top(challenger) == truth))
        self.brier.update(-brier_score(truth, champion), -brier_score(truth, challenger))
        if self._decision == "undecided":
            self._decision = self._decide()
        return self._decision

    @property
    def verdict(self) -> Decision:
        """Who was found better; it does not change any more."""
        return self._decision

    def summary(self, champion: str = "the champion", challenger: str = "the challenger") -> str:
        """One line for people."""
        said = {"challenger": f"{challenger} is better", "champion": f"{champion} is better", "undecided": "undecided"}
        (low, high), brier = self.accuracy.interval, self.brier.interval
        return (
            f"{said[self._decision]} after {self.accuracy.events} events: accuracy of {challenger} "
            f"{self.accuracy.gain:+.3f} [{low:+.3f}, {high:+.3f}], "
            f"Brier score {-self.brier.gain:+.3f} [{-brier[1]:+.3f}, {-brier[0]:+.3f}]"
        )

    def _decide(self) -> Decision:
        if self.accuracy.verdict != "undecided":
            return self.accuracy.verdict
        ahead = self.accuracy.gain >= self.accuracy.minimum_gain
        if self.brier.verdict == "challenger" and ahead:
            return "challenger"
        if self.brier.verdict == "champion" and self.accuracy.gain <= self.accuracy.minimum_gain:
            return "champion"
        return "undecided"


def brier_score(truth: str, probabilities: Mapping[str, float]) -> float:
    """Squared distance between the probabilities by class and the truth, from 0 to 2."""
    return sum(p * p for p in probabilities.values()) - 2 * probabilities.get(truth, 0.0) + 1


def _top(probabilities: Mapping[str, float]) -> str:
    return max(probabilities, key=lambda name: probabilities[name])


def _bets(
    difference: NDArray[np.float64], mean: NDArray[np.float64], bound: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log of what each bet brings, against a mean of at most and of at least ``mean``; shape (..., fractions).

    A bet of 1 / (bound + mean) would lose everything at the worst difference; the fractions stay below it.
    """
    tiny = 1e-9
    up = (difference - mean) / np.maximum(bound + mean, tiny)
    down = (mean - difference) / np.maximum(bound - mean, tiny)
    return np.log1p(FRACTIONS * up[..., None]), np.log1p(FRACTIONS * down[..., None])


def _log_capital(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the mixture's capital from the logs of its parts, over the last axis."""
    return np.asarray(np.logaddexp.reduce(logs, axis=-1) - np.log(logs.shape[-1]))


def _capital(logs: NDArray[np.float64]) -> float:
    return float(np.exp(min(float(_log_capital(logs)), 700.0)))
