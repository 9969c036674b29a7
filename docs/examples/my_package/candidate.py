"""Candidate: linear discriminant analysis on the embeddings, as a head on the encoder."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from driftloop.core.models.bundle import write_bundle
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.models.head import Head
from retrain.candidates.base import CannotFit, Task
from retrain.training_window import TrainingWindow

MIN_ROWS = 20
SHRINKAGE = 0.5


class ClassMeans:
    """Linear discriminant analysis with the covariance shrunk half-way to a multiple of the identity."""

    name = "class-means"
    quick = True

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        """Learn from all rows of the window alike, and write the bundle.

        Args:
            window: Labelled events to learn from.
            task: Budget, lineage, signing key and scratch folder.
            out: Folder of the bundle. It does not exist yet.

        Raises:
            CannotFit: There are too few rows, or one class only.
        """
        if len(window) < MIN_ROWS:
            raise CannotFit(f"{len(window)} labelled events are fewer than {MIN_ROWS}")
        if len(window.classes) < 2:
            raise CannotFit(f"all {len(window)} labels are {window.classes[0]!r}")
        estimator = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE)
        head = Head(estimator.fit(window.embeddings, np.asarray(window.labels)))
        write_bundle(
            out,
            encoder=OnnxEncoder(window.encoder, task.model.max_tokens, task.budget.cores),
            head=head,
            labels=head.classes,
            lineage=msgspec.structs.replace(task.lineage, parameters={"shrinkage": SHRINKAGE}),
            key=task.signing_key,
        )

    def refit(self, window: TrainingWindow, fitted: Path, task: Task, out: Path) -> bool:
        """Fit on the larger window; the only recipe is the shrinkage.

        Args:
            window: All rows of the retraining.
            fitted: Bundle of the winner.
            task: Budget, lineage, signing key and scratch folder.
            out: Folder of the bundle.
        """
        self.fit(window, task, out)
        return True

    def rescue(self, window: TrainingWindow, task: Task, out: Path) -> bool:
        """Return False: a fit takes less than a second and has no checkpoints.

        Args:
            window: Not used.
            task: Not used.
            out: Not used.
        """
        return False
