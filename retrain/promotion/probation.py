"""Probation of a new champion: its predecessor stays in shadow for a while, and is restored if it is better."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import Outcome
from driftloop.core.models.bundle import BundleClassifier
from driftloop.core.settings import Settings
from retrain.evaluation.evaluator import Evaluator
from retrain.evaluation.shadow import Shadow
from retrain.promotion.model_loader import ModelLoader
from retrain.promotion.promoter import Promoter
from retrain.retraining_log import RetrainingLog


class Probation:
    """Compares the champion with its predecessor on live events.

    Args:
        settings: Settings with the length of a probation; `0` disables it.
        outbox: Producer for `retraining`.
        promoter: Promoter that restores the predecessor.
        models: Loader of the champion.
        evaluator: Evaluator that predicts for the predecessor.
    """

    def __init__(
        self,
        settings: Settings,
        outbox: ConfirmedProducer,
        *,
        promoter: Promoter,
        models: ModelLoader,
        evaluator: Evaluator,
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._promoter = promoter
        self._models = models
        self._evaluator = evaluator
        self._replaced: tuple[BundleClassifier, str] | None = None
        self._shadow: Shadow | None = None

    def begin(self, predecessor: BundleClassifier, version: str) -> None:
        """Begin a probation at the next `advance`; it ends the one before.

        Args:
            predecessor: Champion that was replaced.
            version: Version that replaced it.
        """
        self._replaced = (predecessor, version)

    def advance(self, fresh: Sequence[Outcome], known: Sequence[Outcome]) -> None:
        """Compare both models on new labelled events, and restore the predecessor if it is better beyond chance.

        Args:
            fresh: Labelled events since the previous call.
            known: All labelled events that are kept, for a probation that begins.
        """
        chosen = self._settings.retrain
        if self._replaced is not None:
            predecessor, version = self._replaced
            self._replaced = None
            since = self._models.champion().trained_until
            self._shadow = Shadow(predecessor, version, since, chosen.probation, 1 - chosen.confidence)
            fresh = known
        if self._shadow is None or not chosen.probation:
            return
        shadow = self._shadow
        shadow.offer(fresh)
        decision = shadow.advance(self._evaluator.predict_outcomes)
        if decision == "challenger" and shadow.champion == self._models.champion().version:
            self._restore(shadow, fresh[-1].position if fresh else -1)
        if decision != "undecided":
            self._shadow = None

    def _restore(self, shadow: Shadow, position: int) -> None:
        version = shadow.model.version
        reason = shadow.test.summary("the promoted model", f"its predecessor {version}")
        run_id = f"probation-{uuid.uuid4().hex[:8]}"
        run_log = RetrainingLog(self._settings, self._outbox, run_id, "probation", position)
        restored = self._promoter.restore(version, reason, "rollback", self._models.origin(version).trigger)
        run_log.write("rolled-back", reason, version=restored, scores={"shadow": shadow.test.as_json()})
        run_log.write("finished", reason, version=restored)
