"""Mixture candidate: the first experts of a mixture, which then learns from every label."""

from __future__ import annotations

from pathlib import Path

import msgspec

from driftloop.core.models.bundle import write_bundle
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.models.expert_features import FeatureMap
from driftloop.core.models.mixture_head import MixtureHead
from retrain.candidates import training_rows
from retrain.candidates.base import Task
from retrain.mixture.learner import MixtureLearner, make_rows
from retrain.training_window import TrainingWindow


class MixtureFit:
    """Mixture of experts, each fitted on the newest rows of its window.

    It makes the first model, and replaces a champion that is not a mixture.
    """

    name = "mixture"
    quick = True

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        """Fit the experts and write the bundle; see `Candidate.fit`.

        Args:
            window: Labelled events to learn from.
            task: Budget, lineage, signing key and scratch folder.
            out: Folder of the bundle.
        """
        training_rows.require_learnable(window)
        encoder = OnnxEncoder(window.encoder, task.model.max_tokens, task.budget.cores)
        tokens = encoder.tokenise(window.texts)
        feature_map = FeatureMap.fit(window.embeddings, tokens)
        features = feature_map.transform(window.embeddings, tokens)
        rows = make_rows(features, window.labels, range(len(window)), window.weights)
        mixture = MixtureLearner.train(rows).mixture
        write_bundle(
            out,
            encoder=encoder,
            head=MixtureHead(mixture, feature_map, encoder.tokenise),
            labels=mixture.classes,
            lineage=msgspec.structs.replace(task.lineage, parameters={"experts": list(mixture.names)}),
            key=task.signing_key,
        )

    def refit(self, window: TrainingWindow, fitted: Path, task: Task, out: Path) -> bool:
        """Fit the experts on the whole window; see `Candidate.refit`.

        Args:
            window: All rows of the retraining.
            fitted: Not used.
            task: Budget, lineage, signing key and scratch folder.
            out: Folder of the bundle.
        """
        self.fit(window, task, out)
        return True

    def rescue(self, window: TrainingWindow, task: Task, out: Path) -> bool:
        """Return False: a fit has no checkpoints.

        Args:
            window: Not used.
            task: Not used.
            out: Not used.
        """
        return False
