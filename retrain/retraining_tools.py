"""Parts of the worker that every retraining uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import Settings
from retrain.evaluation.evaluator import Evaluator
from retrain.fitting.warm_start import WarmStartStore
from retrain.mixture.champion_learner import ChampionLearner, VersionLearner
from retrain.promotion.model_loader import ModelLoader
from retrain.promotion.probation import Probation
from retrain.promotion.promoter import Promoter
from retrain.stream_state import StreamState


@dataclass(frozen=True, kw_only=True)
class RetrainingTools:
    """Parts of the worker that every retraining uses."""

    settings: Settings
    state: StreamState
    stopped: Callable[[], bool]
    """Returns `True` if the worker was asked to stop; every wait calls it often."""
    outbox: ConfirmedProducer
    store: OnlineStore
    encoder: OnnxEncoder
    """Encoder of the stream, whose embeddings are stored."""
    models: ModelLoader
    evaluator: Evaluator
    promoter: Promoter
    probation: Probation
    warm_starts: WarmStartStore
    learner: ChampionLearner | None
    """Learner of the champion's mixture; `None` if the settings want a champion that does not change."""

    @property
    def mixture(self) -> VersionLearner | None:
        """Learner of a champion that is a mixture; `None` for another champion."""
        return None if self.learner is None else self.learner.mixture

    def learn(self) -> None:
        """Read new messages and let the champion's mixture learn: for waits of any length."""
        self.stopped()
        self.state.poll(50)
        if self.learner is not None:
            self.learner.learn(self.state)
