"""A policy: retrain on every n-th labelled mistake."""

from __future__ import annotations

from collections.abc import Sequence

from driftloop.core.messages import DriftAlert, Outcome
from driftloop.core.settings import RetrainSettings
from retrain.policies.base import ALWAYS, PolicyContext, Retrain, Wait


class EveryMistakes:
    """Retrains when there have been ``[retrain] period`` mistakes since the last retraining."""

    name = "every-mistakes"

    def __init__(self, settings: RetrainSettings) -> None:
        self.mistakes = settings.period

    def decide(self, now: PolicyContext, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Count the mistakes that came after what the last retraining saw."""
        seen = now.past[-1].until_at if now.past else ALWAYS
        made = sum(not outcome.correct and outcome.occurred_at > seen for outcome in outcomes)
        if made < self.mistakes:
            return Wait(f"{made} of {self.mistakes} mistakes since the last retraining")
        return Retrain(f"{made} mistakes since the last retraining", "mistakes", ALWAYS)
