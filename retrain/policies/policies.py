"""When to retrain: never, periodically, on drift, or on drift when it pays. All decide from the same facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol, runtime_checkable

from driftloop.core import plugins
from driftloop.core.errors import DriftloopError
from driftloop.core.messages import DriftAlert, Kind, Outcome
from driftloop.core.settings import RetrainSettings


@dataclass(frozen=True)
class CompletedRetraining:
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
    kind: Kind = "answer"
    seconds: float = 0.0
    """Wall-clock seconds that it took."""


@dataclass(frozen=True)
class PolicyContext:
    """The moment of a decision."""

    labelled: int
    """Labelled events so far."""
    past: tuple[CompletedRetraining, ...] = ()


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
    kind: Kind = "search"
    """Whether it is the first answer to a drift, a refresh of what was learnt, or a search by all candidates."""


ALWAYS = -1.0
"""An onset before every event."""
DAY = 86_400.0


@runtime_checkable
class Policy(Protocol):
    """Decides from the alerts and outcomes so far; `retrain.policies.checks` has the checks for each of them."""

    name: str

    def decide(self, now: PolicyContext, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """``alerts`` and ``outcomes`` are the newest kept, oldest first; the answer depends on nothing else."""
        ...


class Never:
    """Keeps the first champion: the baseline."""

    name = "never"

    def decide(self, now: PolicyContext, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Wait, always."""
        return Wait("the policy is never to retrain")


@dataclass(frozen=True)
class Periodic:
    """Retrains after every ``period`` labelled events, on the newest window."""

    period: int
    name = "periodic"

    def decide(self, now: PolicyContext, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Retrain when ``period`` labelled events have passed since the last time."""
        since = now.labelled - (now.past[-1].labelled if now.past else 0)
        if since < self.period:
            return Wait(f"{since} of {self.period} labelled events have passed")
        return Retrain(f"{since} labelled events since the last retraining", "periodic", ALWAYS)


@dataclass(frozen=True)
class OnDrift:
    """Answers an alert with what is labelled, then learns the concept in rounds as its labels come in.

    The first round is the answer: a model from some dozens of labels, or an archived one. Each time there are
    ``growth`` times as many labels since the onset, a refresh fits the same recipe on all of them, until ``window``
    holds no more. One of the rounds, from ``search_rows`` labels on, is the search, in which the slow candidates
    compete; from fewer they learn no more than the quick ones. Where an answer promoted nothing, the next round is an
    answer again, with ``retry_growth`` times the labels: a small drift shows on many of them only. The window is the
    end of that too.
    """

    cooldown: int
    search_rows: int = 300
    window: int = 6000
    min_rows: int = 40
    growth: float = 1.25
    retry_growth: float = 1.5
    name = "on-drift"

    def decide(self, now: PolicyContext, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Retrain on a new alert once ``min_rows`` of the new concept are labelled, then in rounds."""
        episode = newest_episode(alerts, now.past)
        if episode is None:
            return Wait("no drift has been seen")
        rows = sum(outcome.occurred_at >= episode.onset_at for outcome in outcomes)
        rounds = [past for past in now.past if past.onset_at == episode.onset_at]
        answered = any(past.promoted for past in rounds)
        needed = self.min_rows
        if rounds:
            needed = int(rounds[-1].rows * (self.growth if answered else self.retry_growth))
        if needed > self.window:
            learnt = "the last drift has been learnt" if answered else "no model was better after the last alert"
            return Wait(learnt)
        if rows < needed:
            return Wait(f"{rows} of {needed} labelled events since the onset")
        since = now.labelled - now.past[-1].labelled if now.past else self.cooldown
        if not rounds and since < self.cooldown:
            return Wait(f"cooling down: {since} of {self.cooldown} labelled events")
        kind: Kind = "refresh" if answered else "answer"
        if rows >= self.search_rows and not any(past.kind == "search" for past in rounds):
            kind = "search"
        what = f"round {len(rounds) + 1} of the drift" if rounds else episode.reason
        return replace(episode, reason=f"{what}; {rows} labelled events since the onset", kind=kind)


@dataclass(frozen=True)
class CostAware:
    """On drift, and only where the errors that a retraining may save outweigh its price.

    Expects the drop that the alert measured to last until the next drift, ``horizon`` labelled events where fewer
    than two drifts are known and the median distance between them after that. It retrains when
    ``severity * horizon * cost_of_error > seconds * cost_of_second``, with the seconds that the retrainings so far took
    on average, ``seconds`` before the first. After CARA (Mahadevan and Mathioudakis, arXiv 2310.04216), which weighs
    the staleness of a model against the cost of retraining it.
    """

    base: OnDrift
    horizon: int = 2000
    cost_of_error: float = 1.0
    cost_of_second: float = 1.0
    seconds: float = 120.0
    name = "cost-aware"

    def decide(self, now: PolicyContext, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Ask the on-drift policy first, then weigh; a drift that was answered is followed to its end."""
        answer = self.base.decide(now, alerts, outcomes)
        if isinstance(answer, Wait) or answer.kind == "refresh":
            return answer
        severity = max((abs(a.severity) for a in alerts if a.onset_at == answer.onset_at), default=1.0)
        onsets = sorted({past.onset_at: past.labelled for past in now.past if past.onset_at > ALWAYS}.values())
        gaps = sorted(later - earlier for earlier, later in pairwise(onsets))
        horizon = gaps[len(gaps) // 2] if gaps else self.horizon
        taken = [past.seconds for past in now.past if past.seconds > 0]
        seconds = sum(taken) / len(taken) if taken else self.seconds
        saved, price = severity * horizon * self.cost_of_error, seconds * self.cost_of_second
        sums = f"{severity:.2f} x {horizon} events x {self.cost_of_error:g} = {saved:.0f} would be saved"
        spent = f"{seconds:.0f} s x {self.cost_of_second:g} = {price:.0f} spent"
        if saved <= price:
            return Wait(f"{sums}, {spent}: it does not pay")
        return replace(answer, reason=f"{answer.reason}; {sums}, {spent}")


@dataclass
class Budgeted:
    """Any policy, with at most ``per_day`` retrainings begun in 24 hours of the stream's own time; refreshes go on."""

    base: Policy
    per_day: int

    def __post_init__(self) -> None:
        self.name = self.base.name

    def decide(self, now: PolicyContext, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Ask the policy inside, and wait where the day's retrainings are used up."""
        answer = self.base.decide(now, alerts, outcomes)
        if isinstance(answer, Wait) or answer.kind == "refresh":
            return answer
        newest = max(outcome.occurred_at for outcome in outcomes)
        begun = sum(past.kind != "refresh" and past.until_at > newest - DAY for past in now.past)
        if begun >= self.per_day:
            return Wait(f"{begun} of {self.per_day} retrainings of the last 24 hours are used up: {answer.reason}")
        return answer


def newest_episode(alerts: Sequence[DriftAlert], past: Sequence[CompletedRetraining]) -> Retrain | None:
    """The newest drift: that of the newest alert, or of the last retraining where that has seen the alert's onset."""
    newest = past[-1] if past and past[-1].onset_at > ALWAYS else None
    if alerts and (newest is None or alerts[-1].onset_at > newest.until_at):
        alert = alerts[-1]
        moved = f"{alert.signal} moved by {alert.severity:+.3f} ({alert.detector})"
        return Retrain(moved, alert.alert_id, alert.onset_at)
    return None if newest is None else Retrain("the last drift", newest.trigger, newest.onset_at)


def make_policy(settings: RetrainSettings) -> Policy:
    """The configured policy; a class of the user's own is called with ``settings``.

    Raises:
        DriftloopError: there is no such class, it cannot be made, or it is no policy.
    """
    on_drift = OnDrift(settings.cooldown, settings.search_rows, settings.window)
    policies: dict[str, Policy] = {
        "never": Never(),
        "periodic": Periodic(settings.period),
        "on-drift": on_drift,
        "cost-aware": CostAware(on_drift, cost_of_error=settings.cost_of_error, cost_of_second=settings.cost_of_second),
    }
    chosen = policies.get(settings.policy) or make_custom(plugins.find("policies", settings.policy), settings)
    return Budgeted(chosen, settings.per_day) if settings.per_day else chosen


def make_custom(cls: Callable[[RetrainSettings], object], settings: RetrainSettings) -> Policy:
    """A policy of the user's own.

    Raises:
        DriftloopError: it cannot be made, or lacks what a policy has.
    """
    name = getattr(cls, "__qualname__", str(cls))
    try:
        policy = cls(settings)
    except Exception as error:  # a stranger's code
        raise DriftloopError(
            f"The policy {name} cannot be made ({type(error).__name__}: {error}): its one argument are the [retrain] "
            "settings."
        ) from error
    if not isinstance(policy, Policy):
        raise DriftloopError(f"{name} is not a policy: it needs a name and decide.")
    return policy
