"""Rounds of a mixture of experts: register it, and search for better experts, as the labels of a concept grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from driftloop.core.messages import DriftAlert, Outcome
from retrain.mixture.learner import DEFAULTS
from retrain.policies.base import ALWAYS, PolicyContext, Retrain, Wait
from retrain.policies.on_drift import labelled_since_last, newest_episode, rows_since

MORE_LABELS = "more-labels"
"""Trigger of a round without a drift."""


@dataclass(frozen=True)
class MixtureRounds:
    """Retrains when the labels since the onset of a drift, or since the start of the stream, have grown by a factor.

    A mixture learns from every label by itself. A round registers it as it has become. It is a search as well, in which
    the slow candidates learn from all labels since, unless an earlier search of the concept is still open.

    Args:
        cooldown: Labelled events between the last retraining and the first round of a new drift.
        search_rows: Labelled events since the onset from which on a round is a search.
        bootstrap: Labelled events that the first champion has learnt.
        first: Labelled events since the onset of a drift for its first round. The first champion counts as a round of
            as many labels, or of its own.
        growth: Factor by which the labels grow between two rounds.
        longest: Largest number of labelled events between two rounds. By default those of the longest window.
        retry: Labelled events between a round that failed and the next.
    """

    cooldown: int
    search_rows: int = 300
    bootstrap: int = 500
    first: int = 300
    growth: float = 3.0
    longest: int = max(DEFAULTS.sizes.values())
    retry: int = 100
    name = "on-drift"

    def decide(self, now: PolicyContext, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Retrain once enough labels have arrived for the next round; see `Policy.decide`.

        Args:
            now: Number of labelled events and earlier retrainings.
            alerts: Newest drift alerts, oldest first.
            outcomes: Newest labelled events, oldest first.
        """
        concept = newest_episode(alerts, now.past) or Retrain("no drift so far", MORE_LABELS, ALWAYS)
        missing = self._labels_missing(concept.onset_at, now, outcomes)
        if missing > 0:
            return Wait(f"the next round is due in {missing} labelled events")
        rows, begin = rows_since(concept.onset_at, outcomes), "onset" if concept.onset_at > ALWAYS else "start"
        return replace(
            concept,
            reason=f"{concept.reason}; {rows} labelled events since the {begin}",
            kind="search" if rows >= self.search_rows and concept.onset_at not in now.searching else "refresh",
        )

    def _labels_missing(self, onset_at: float, now: PolicyContext, outcomes: Sequence[Outcome]) -> int:
        """Return the labelled events until the next round is due; `0` or less if it is."""
        rounds = [past for past in now.past if past.onset_at == onset_at]
        if not rounds and onset_at > ALWAYS:
            cooling = self.cooldown - labelled_since_last(now) if now.past else 0
            return max(self.first - rows_since(onset_at, outcomes), cooling)
        if rounds and not rounds[-1].promoted:  # a mixture is always promoted, so this one has failed
            return self.retry - labelled_since_last(now)
        learnt = max(self.bootstrap, self.first)
        rows, labelled = (rounds[-1].rows, rounds[-1].labelled) if rounds else (learnt, learnt)
        return min(int(rows * (self.growth - 1)), self.longest) - (now.labelled - labelled)
