"""Policy: retrain on every n-th labelled mistake."""

from __future__ import annotations

from collections.abc import Sequence

from driftloop.core.messages import DriftAlert, Outcome
from driftloop.core.settings import RetrainSettings
from retrain.policies.base import ALWAYS, PolicyContext, Retrain, Wait


class EveryMistakes:
    """Retrains after ``[retrain] period`` mistakes since the last retraining.

    Args:
        settings: The [retrain] settings.
    """

    name = "every-mistakes"

    def __init__(self, settings: RetrainSettings) -> None:
        self.mistakes = settings.period

    def decide(self, now: PolicyContext, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Count the mistakes after the events of the last retraining.

        Args:
            now: Number of labelled events and earlier retrainings.
            alerts: Newest drift alerts, oldest first.
            outcomes: Newest labelled events, oldest first.
        """
        since = now.past[-1].until_at if now.past else ALWAYS
        mistakes = sum(not outcome.correct and outcome.occurred_at > since for outcome in outcomes)
        if mistakes < self.mistakes:
            return Wait(f"{mistakes} of {self.mistakes} mistakes since the last retraining")
        return Retrain(f"{mistakes} mistakes since the last retraining", "mistakes", ALWAYS)
