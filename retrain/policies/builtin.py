"""Built-in policies beside on-drift: never, periodic, cost-aware, and a daily budget around any policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from driftloop.core.messages import DriftAlert, Outcome
from retrain.policies.base import ALWAYS, Policy, PolicyContext, Retrain, Wait

DAY = 86_400.0
"""Seconds."""


class Never:
    """Keeps the first champion. It is the baseline of the benchmarks."""

    name = "never"

    def decide(self, now: PolicyContext, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Return `Wait` always.

        Args:
            now: Not used.
            alerts: Not used.
            outcomes: Not used.
        """
        return Wait("the policy is never to retrain")


@dataclass(frozen=True)
class Periodic:
    """Retrains on the newest window after every ``period`` labelled events.

    Args:
        period: Labelled events between two retrainings.
    """

    period: int
    name = "periodic"

    def decide(self, now: PolicyContext, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Retrain once ``period`` labelled events have passed since the last retraining.

        Args:
            now: Number of labelled events and earlier retrainings.
            alerts: Not used.
            outcomes: Not used.
        """
        since = now.labelled - (now.past[-1].labelled if now.past else 0)
        if since < self.period:
            return Wait(f"{since} of {self.period} labelled events have passed")
        return Retrain(f"{since} labelled events since the last retraining", "periodic", ALWAYS)


@dataclass(frozen=True)
class CostAware:
    """Retrains if the errors that a retraining may save outweigh its price.

    It retrains if ``severity * horizon * cost_of_error > seconds * cost_of_second``. Severity is the drop that the
    alert measured, or without a drift the newest gain in accuracy from more labels. It is expected to last until the
    next drift. The rule follows CARA (Mahadevan and Mathioudakis, arXiv 2310.04216), which weighs the staleness of a
    model against the cost of retraining it.

    Args:
        base: Policy that decides on what to retrain, and when its rounds are due.
        horizon: Labelled events until the next drift. The median distance of the drifts replaces it once two are known.
        cost_of_error: Price of one wrong prediction.
        cost_of_second: Price of one second of retraining.
        seconds: Length of a retraining. The mean of the retrainings so far replaces it after the first.
    """

    base: Policy
    horizon: int = 2000
    cost_of_error: float = 1.0
    cost_of_second: float = 1.0
    seconds: float = 120.0
    name = "cost-aware"

    def decide(self, now: PolicyContext, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Ask the base policy, then weigh its answer; refreshes are not weighed.

        Args:
            now: Number of labelled events and earlier retrainings.
            alerts: Newest drift alerts, oldest first.
            outcomes: Newest labelled events, oldest first.
        """
        answer = self.base.decide(now, alerts, outcomes)
        if isinstance(answer, Wait) or answer.kind == "refresh":
            return answer
        if answer.onset_at == ALWAYS:
            severity = newest_gain(outcomes)
        else:
            severity = max((abs(alert.severity) for alert in alerts if alert.onset_at == answer.onset_at), default=1.0)
        horizon, seconds = self._expected_horizon(now), self._expected_seconds(now)
        saved, price = severity * horizon * self.cost_of_error, seconds * self.cost_of_second
        details = {
            "severity": severity,
            "horizon": horizon,
            "cost_of_error": self.cost_of_error,
            "saved": saved,
            "seconds": seconds,
            "cost_of_second": self.cost_of_second,
            "price": price,
        }
        if saved <= price:
            return Wait(f"a retraining would cost {price:.0f} and save {saved:.0f}", details)
        return replace(answer, details=details)

    def _expected_horizon(self, now: PolicyContext) -> int:
        """Return the median number of labelled events between two drifts."""
        onsets = sorted({past.onset_at: past.labelled for past in now.past if past.onset_at > ALWAYS}.values())
        gaps = sorted(later - earlier for earlier, later in pairwise(onsets))
        return gaps[len(gaps) // 2] if gaps else self.horizon

    def _expected_seconds(self, now: PolicyContext) -> float:
        """Return the mean length of the retrainings so far."""
        lengths = [past.seconds for past in now.past if past.seconds > 0]
        return sum(lengths) / len(lengths) if lengths else self.seconds


def newest_gain(outcomes: Sequence[Outcome]) -> float:
    """Return the rise in accuracy from the second third of the outcomes to the last, or 0 if it has fallen.

    Outcomes that the model was trained on do not count.
    """
    correct = [outcome.correct for outcome in outcomes if not outcome.in_sample]
    third = len(correct) // 3
    if third == 0:
        return 0.0
    return max(0.0, (sum(correct[-third:]) - sum(correct[-2 * third : -third])) / third)


@dataclass
class Budgeted:
    """Limits any policy to ``per_day`` retrainings in 24 hours of the stream's own time. Refreshes are not counted.

    Args:
        base: Policy to limit.
        per_day: Largest number of retrainings in 24 hours.
    """

    base: Policy
    per_day: int

    def __post_init__(self) -> None:
        self.name = self.base.name

    def decide(self, now: PolicyContext, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Ask the policy inside, and wait if the retrainings of the day are used up.

        Args:
            now: Number of labelled events and earlier retrainings.
            alerts: Newest drift alerts, oldest first.
            outcomes: Newest labelled events, oldest first.
        """
        answer = self.base.decide(now, alerts, outcomes)
        if isinstance(answer, Wait) or answer.kind == "refresh":
            return answer
        newest = max(outcome.occurred_at for outcome in outcomes)
        begun = sum(past.kind != "refresh" and past.until_at > newest - DAY for past in now.past)
        if begun >= self.per_day:
            return Wait(f"{begun} of {self.per_day} retrainings of the last 24 hours are used up")
        return answer
