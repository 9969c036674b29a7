"""On-drift policy: answer a drift alert, then learn the new concept in rounds as its labels arrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from driftloop.core.messages import DriftAlert, Kind, Outcome
from retrain.policies.base import ALWAYS, CompletedRetraining, PolicyContext, Retrain, Wait


@dataclass(frozen=True)
class OnDrift:
    """Retrains after a drift alert, first on a few dozen labels and then in growing rounds.

    The first round is the answer: a model from the first labels, or an archived model. When the labels since the onset
    have grown by ``growth``, a refresh fits the same recipe on all of them. The rounds end when the next one would need
    more than ``window`` labels.

    One round with ``search_rows`` labels or more is the search, in which the slow candidates compete. With fewer labels
    they learn no more than the quick candidates.

    If an answer promoted nothing, the next round is an answer again, after growth by ``retry_growth``. A small drift
    shows only on many labels.

    Args:
        cooldown: Labelled events between the last retraining and the first round of a new drift.
        search_rows: Labelled events since the onset from which on a round is a search.
        window: Largest number of labelled events that a round learns from.
        min_rows: Labelled events since the onset that the first round needs.
        growth: Factor by which the labels grow between two rounds after a promotion.
        retry_growth: Factor by which the labels grow between two rounds without a promotion.
    """

    cooldown: int
    search_rows: int = 300
    window: int = 6000
    min_rows: int = 40
    growth: float = 1.25
    retry_growth: float = 1.5
    name = "on-drift"

    def decide(self, now: PolicyContext, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Retrain once enough labels of the new concept have arrived for the next round; see `Policy.decide`.

        Args:
            now: Number of labelled events and earlier retrainings.
            alerts: Newest drift alerts, oldest first.
            outcomes: Newest labelled events, oldest first.
        """
        drift = newest_episode(alerts, now.past)
        if drift is None:
            return Wait("no drift has been seen")
        rounds = [past for past in now.past if past.onset_at == drift.onset_at]
        rows = rows_since(drift.onset_at, outcomes)
        needed = self._rows_needed(rounds)
        if needed > self.window:
            learnt = _is_answered(rounds)
            return Wait("the last drift has been learnt" if learnt else "no model was better after the last alert")
        if rows < needed:
            return Wait(f"{rows} of {needed} labelled events since the onset")
        if not rounds and self._is_cooling_down(now):
            return Wait(f"cooling down: {labelled_since_last(now)} of {self.cooldown} labelled events")
        cause = f"round {len(rounds) + 1} of the drift" if rounds else drift.reason
        return replace(
            drift, reason=f"{cause}; {rows} labelled events since the onset", kind=self._kind_of_round(rounds, rows)
        )

    def _rows_needed(self, rounds: Sequence[CompletedRetraining]) -> int:
        """Return the labelled events since the onset that the next round needs."""
        if not rounds:
            return self.min_rows
        return int(rounds[-1].rows * (self.growth if _is_answered(rounds) else self.retry_growth))

    def _is_cooling_down(self, now: PolicyContext) -> bool:
        """Return True if the last retraining was less than ``cooldown`` labelled events ago."""
        return bool(now.past) and labelled_since_last(now) < self.cooldown

    def _kind_of_round(self, rounds: Sequence[CompletedRetraining], rows: int) -> Kind:
        """Return the kind of the next round; a drift gets one search."""
        if rows >= self.search_rows and not any(past.kind == "search" for past in rounds):
            return "search"
        return "refresh" if _is_answered(rounds) else "answer"


def newest_episode(alerts: Sequence[DriftAlert], past: Sequence[CompletedRetraining]) -> Retrain | None:
    """Return the newest drift as a retraining to be done.

    It is the drift of the newest alert. If the window of the last retraining already reached past the onset of that
    alert, it is the drift that this retraining learnt.

    Args:
        alerts: Newest drift alerts, oldest first.
        past: Earlier retrainings, oldest first.

    Returns:
        The retraining, or `None` without any drift.
    """
    newest = past[-1] if past and past[-1].onset_at > ALWAYS else None
    if alerts and (newest is None or alerts[-1].onset_at > newest.until_at):
        alert = alerts[-1]
        moved = f"{alert.signal} moved by {alert.severity:+.3f} ({alert.detector})"
        return Retrain(moved, alert.alert_id, alert.onset_at)
    return None if newest is None else Retrain("the last drift", newest.trigger, newest.onset_at)


def _is_answered(rounds: Sequence[CompletedRetraining]) -> bool:
    """Return True if one of the rounds promoted a model."""
    return any(past.promoted for past in rounds)


def rows_since(onset_at: float, outcomes: Sequence[Outcome]) -> int:
    """Return the number of labelled events since an onset.

    Args:
        onset_at: `occurred_at` of the first event after the drift.
        outcomes: Labelled events.
    """
    return sum(outcome.occurred_at >= onset_at for outcome in outcomes)


def labelled_since_last(now: PolicyContext) -> int:
    """Return the labelled events since the last retraining took its window."""
    return now.labelled - now.past[-1].labelled
