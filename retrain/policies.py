"""When to retrain: never, periodically, on drift, or on drift when it pays. All decide from the same facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from driftloop.messages import DriftAlert, Outcome
from driftloop.settings import RetrainSettings


@dataclass(frozen=True)
class Past:
    """A retraining that has been done, whatever came of it."""

    labelled: int
    """Labelled events when its window was taken."""
    onset_at: float
    """Where the concept it learnt began (`occurred_at`); `ALWAYS` for everything."""
    rows: int
    """Labelled events since the onset that it had."""
    until_at: float
    """`occurred_at` of the newest event that it saw."""
    trigger: str
    promoted: bool


@dataclass(frozen=True)
class Now:
    """The moment of a decision."""

    labelled: int
    """Labelled events so far."""
    past: tuple[Past, ...] = ()


@dataclass(frozen=True)
class Wait:
    """Do nothing yet."""

    reason: str


@dataclass(frozen=True)
class Retrain:
    """Retrain now."""

    reason: str
    trigger: str
    """Alert id, or the policy's own word."""
    onset_at: float
    """`occurred_at` from which events belong to the concept to learn; `ALWAYS` for all of them."""
    search: bool = True
    """Whether the slow candidates compete as well."""


ALWAYS = -1.0
"""An onset before every event."""


@runtime_checkable
class Policy(Protocol):
    """Decides from the alerts and outcomes so far. `tests/contracts/test_policies.py` checks each of them."""

    name: str

    def decide(self, now: Now, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """``alerts`` and ``outcomes`` are the newest kept, oldest first; the answer depends on nothing else."""
        ...


class Never:
    """Keeps the first champion: the baseline."""

    name = "never"

    def decide(self, now: Now, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Wait, always."""
        return Wait("the policy is never to retrain")


@dataclass(frozen=True)
class Periodic:
    """Retrains after every ``period`` labelled events, on the newest window."""

    period: int
    name = "periodic"

    def decide(self, now: Now, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Retrain when ``period`` labelled events have passed since the last time."""
        since = now.labelled - (now.past[-1].labelled if now.past else 0)
        if since < self.period:
            return Wait(f"{since} of {self.period} labelled events have passed")
        return Retrain(f"{since} labelled events since the last retraining", "periodic", ALWAYS)


@dataclass(frozen=True)
class OnDrift:
    """Answers an alert at once with what is labelled, and again when there is ``growth`` times as much.

    A drift is learnt in rounds: the first model after it has seen some dozens of labels, and one from several times
    as many is worth another look, ``follow_ups`` times; where nothing was promoted, the next look comes sooner and
    does not count, until there were twice as many.
    The slow candidates join from ``search_rows`` labelled events since the onset on: from fewer they learn no more
    than the quick ones, and the next round would have to wait for them.
    """

    cooldown: int
    search_rows: int = 300
    min_rows: int = 90
    growth: float = 7.0
    retry_growth: float = 1.5
    follow_ups: int = 2
    name = "on-drift"

    def decide(self, now: Now, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Retrain on a new alert once ``min_rows`` of the new concept are labelled, then follow up."""
        episode = newest_episode(alerts, now.past)
        if episode is None:
            return Wait("no drift has been seen")
        rows = sum(outcome.occurred_at >= episode.onset_at for outcome in outcomes)
        rounds = [past for past in now.past if past.onset_at == episode.onset_at]
        if sum(past.promoted for past in rounds) > self.follow_ups or len(rounds) > 2 * self.follow_ups:
            return Wait("the last drift has been learnt")
        needed = self.min_rows
        if rounds:
            needed = int(rounds[-1].rows * (self.growth if rounds[-1].promoted else self.retry_growth))
        if rows < needed:
            return Wait(f"{rows} of {needed} labelled events since the onset")
        since = now.labelled - now.past[-1].labelled if now.past else self.cooldown
        if since < self.cooldown:
            return Wait(f"cooling down: {since} of {self.cooldown} labelled events")
        what = f"follow-up {len(rounds)}" if rounds else episode.reason
        reason = f"{what}; {rows} labelled events since the onset"
        return Retrain(reason, episode.trigger, episode.onset_at, search=rows >= self.search_rows)


@dataclass(frozen=True)
class CostAware:
    """On drift, and only where the errors that a retraining may save outweigh its price.

    Expects the drop that the alert measured to last ``horizon`` labelled events: retrains when
    ``severity * horizon * cost_of_error > cost_of_retraining``.
    """

    base: OnDrift
    horizon: int = 2000
    cost_of_error: float = 1.0
    cost_of_retraining: float = 200.0
    name = "cost-aware"

    def decide(self, now: Now, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Ask the on-drift policy first, then weigh."""
        answer = self.base.decide(now, alerts, outcomes)
        if isinstance(answer, Wait):
            return answer
        severity = max(abs(a.severity) for a in alerts if a.onset_at == answer.onset_at)
        saved = severity * self.horizon * self.cost_of_error
        if saved <= self.cost_of_retraining:
            return Wait(f"about {saved:.0f} would be saved, a retraining costs {self.cost_of_retraining:.0f}")
        return replace(answer, reason=f"{answer.reason}; about {saved:.0f} saved")


def newest_episode(alerts: Sequence[DriftAlert], past: Sequence[Past]) -> Retrain | None:
    """The newest drift: that of the newest alert, or of the last retraining where that has seen the alert's onset."""
    newest = past[-1] if past and past[-1].onset_at > ALWAYS else None
    if alerts and (newest is None or alerts[-1].onset_at > newest.until_at):
        alert = alerts[-1]
        moved = f"{alert.signal} moved by {alert.severity:+.3f} ({alert.detector})"
        return Retrain(moved, alert.alert_id, alert.onset_at)
    return None if newest is None else Retrain("the last drift", newest.trigger, newest.onset_at)


def make_policy(settings: RetrainSettings) -> Policy:
    """The configured policy."""
    on_drift = OnDrift(settings.cooldown, settings.search_rows)
    policies: dict[str, Policy] = {
        "never": Never(),
        "periodic": Periodic(settings.period),
        "on-drift": on_drift,
        "cost-aware": CostAware(on_drift),
    }
    return policies[settings.policy]
