"""Sequential comparison of two models on the same live events, with a decision that may be taken at any time.

A challenger in shadow and a predecessor on probation are compared after every label. A test with a fixed number of rows
finds a difference sooner or later if it is repeated often enough. A test by betting keeps its error rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Decision = Literal["challenger", "champion", "undecided"]

FRACTIONS = np.linspace(0.05, 0.9, 12)
"""Shares of the largest safe bet that the mixture is spread over: small ones for small gains, large ones for large."""
INTERVAL_POINTS = 401
"""Means that the interval is searched on."""


class EValues(NamedTuple):
    """E-values: the capital that a stake of 1 against a null hypothesis has become. Under it their mean is 1."""

    challenger: float
    """Against the hypothesis that the gain is the minimum gain or less."""
    champion: float
    """Against the hypothesis that the gain is the minimum gain or more."""


class PairedTest:
    """Anytime-valid paired test of the mean gain of a challenger over a champion.

    Testing by betting (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting"). For
    each side a capital of 1 is bet on every next difference. The bet is spread over twelve fixed shares of the largest
    safe bet, the paper's grid variant of Kelly betting. By Ville's inequality the chance that either capital ever
    reaches 2/``alpha`` while the gain is ``minimum_gain`` stays below ``alpha``, at any number of looks. A decision is
    final.
    The test assumes only that the differences are bounded, and that their mean, given the past, is on one side of
    ``minimum_gain``.

    Cost on correctness at alpha 0.05, if exactly one of the two models is right on three events in ten: a decision
    takes a median of 52 labelled events for a gain of 0.2. It takes 217 for a gain of 0.1 and 955 for 0.05. Fewer are
    needed if the models disagree less: 38 and 75 for gains of 0.2 and 0.1 without a single loss.

    Args:
        alpha: Error rate, between 0 and 1.
        minimum_gain: Mean gain to test against.
        bound: Largest possible difference: 1 for correctness, 2 for Brier scores.

    Raises:
        ValueError: ``alpha`` is not between 0 and 1, or the gain is not inside the bounds.
    """

    def __init__(self, alpha: float, minimum_gain: float = 0.0, *, bound: float = 1.0) -> None:
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
        """Take one event's values and return the decision so far.

        Args:
            champion_value: Value of the champion, higher is better. Give the negative of a loss.
            challenger_value: Value of the challenger.

        Raises:
            ValueError: The values differ by more than the bound, or one is not a number.
        """
        difference = challenger_value - champion_value
        if not abs(difference) <= self.bound + 1e-6:
            raise ValueError(f"a difference of {difference} is outside ±{self.bound}")
        self._differences.append(min(max(difference, -self.bound), self.bound))
        up, down = _log_bets(np.array(self._differences[-1]), np.array(self.minimum_gain), self.bound)
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
        """Return the number of events so far."""
        return len(self._differences)

    @property
    def gain(self) -> float:
        """Return the mean difference so far, challenger minus champion; 0 before the first event."""
        return float(np.mean(self._differences)) if self._differences else 0.0

    @property
    def evidence(self) -> EValues:
        """Return the current e-values of both sides."""
        return EValues(_capital(self._up), _capital(self._down))

    @property
    def verdict(self) -> Decision:
        """Return the model that is better beyond chance than the minimum gain asks for; a decision is final."""
        return self._decision

    @property
    def interval(self) -> tuple[float, float]:
        """Return bounds of the mean gain that hold at all times together with probability 1 - ``alpha``."""
        if not self._differences:
            return -self.bound, self.bound
        means = np.linspace(-self.bound, self.bound, INTERVAL_POINTS)
        values, counts = np.unique(np.round(self._differences, 6), return_counts=True)
        up, down = np.zeros((2, INTERVAL_POINTS, len(FRACTIONS)))
        for value, count in zip(values, counts, strict=True):
            more_up, more_down = _log_bets(np.full(INTERVAL_POINTS, value), means, self.bound)
            up, down = up + count * more_up, down + count * more_down
        enough = np.log(2 / self.alpha)
        # The capital against "at most m" falls with m and the other rises, so the means that neither refutes are one
        # stretch. The bounds go one step further out, since the true end lies between two of the means.
        kept = np.flatnonzero((_log_capital(up) < enough) & (_log_capital(down) < enough))
        if not len(kept):
            return self.gain, self.gain
        return float(means[max(kept[0] - 1, 0)]), float(means[min(kept[-1] + 1, INTERVAL_POINTS - 1)])


class ShadowTest:
    """Two paired tests at half of ``alpha`` each, on correctness and on the Brier score (Brier, 1950).

    Correctness alone decides slowly, since two models mostly agree; the probabilities decide sooner. The Brier score
    decides only if the accuracy so far does not point the other way, as in `retrain.evaluation.gate.compare`.

    Args:
        alpha: Error rate of both tests together, between 0 and 1.
        minimum_gain: Minimum gain in accuracy.
    """

    def __init__(self, alpha: float, minimum_gain: float = 0.0) -> None:
        self.accuracy = PairedTest(alpha / 2, minimum_gain)
        self.brier = PairedTest(alpha / 2, bound=2.0)
        self._decision: Decision = "undecided"

    def update(self, truth: str, champion: Mapping[str, float], challenger: Mapping[str, float]) -> Decision:
        """Take one labelled event and return the decision so far.

        Args:
            truth: True label.
            champion: Probabilities of the champion by class.
            challenger: Probabilities of the challenger by class.
        """
        self.accuracy.update(float(_top(champion) == truth), float(_top(challenger) == truth))
        self.brier.update(-brier_score(truth, champion), -brier_score(truth, challenger))
        if self._decision == "undecided":
            self._decision = self._decide()
        return self._decision

    @property
    def verdict(self) -> Decision:
        """Return the better model; a decision is final."""
        return self._decision

    def summary(self, champion: str = "the champion", challenger: str = "the challenger") -> str:
        """Return the result as one short sentence; `as_json` has the intervals.

        Args:
            champion: Name of the champion in the sentence.
            challenger: Name of the challenger in the sentence.
        """
        better = {"challenger": f"{challenger} is better", "champion": f"{champion} is better"}
        return (
            f"{better.get(self._decision, 'undecided')} after {self.accuracy.events} events: accuracy of {challenger} "
            f"{self.accuracy.gain:+.3f}, Brier score {-self.brier.gain:+.3f}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain data for MLflow and the topic `retraining`, rounded to four places.

        Gains are in favour of the challenger. The intervals hold at all times together.
        """
        (low, high), (brier_low, brier_high) = self.accuracy.interval, self.brier.interval
        figures = {
            "accuracy_gain": self.accuracy.gain,
            "accuracy_low": low,
            "accuracy_high": high,
            "brier_gain": self.brier.gain,
            "brier_low": brier_low,
            "brier_high": brier_high,
        }
        rounded = {name: round(value, 4) for name, value in figures.items()}
        return {"verdict": self._decision, "events": self.accuracy.events, **rounded}

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
    """Return the squared distance between the probabilities and the truth, from 0 to 2.

    Args:
        truth: True label.
        probabilities: Probabilities by class.
    """
    return sum(p * p for p in probabilities.values()) - 2 * probabilities.get(truth, 0.0) + 1


def _top(probabilities: Mapping[str, float]) -> str:
    return max(probabilities, key=lambda name: probabilities[name])


def _log_bets(
    difference: NDArray[np.float64], mean: NDArray[np.float64], bound: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the log of each bet's factor, against a mean of at most and of at least ``mean``; (..., fractions).

    A bet of 1 / (bound + mean) would lose everything at the worst difference; the fractions stay below it.
    """
    tiny = 1e-9
    up = (difference - mean) / np.maximum(bound + mean, tiny)
    down = (mean - difference) / np.maximum(bound - mean, tiny)
    return np.log1p(FRACTIONS * up[..., None]), np.log1p(FRACTIONS * down[..., None])


def _log_capital(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log of the mixture's capital from the logs of its parts, over the last axis."""
    return np.asarray(np.logaddexp.reduce(logs, axis=-1) - np.log(logs.shape[-1]))


def _capital(logs: NDArray[np.float64]) -> float:
    return float(np.exp(min(float(_log_capital(logs)), 700.0)))
